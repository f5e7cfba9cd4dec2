"""Times models side by side, and says what the difference is worth."""
