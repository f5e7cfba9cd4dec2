"""Low rank: a stored weight as an exact product of two, whose inner channels are an ordinary group."""
