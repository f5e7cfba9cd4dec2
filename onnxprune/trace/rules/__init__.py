"""One small function per operator family: what it does to labels."""
