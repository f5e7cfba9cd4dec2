"""Clean-up: the smallest graph that computes the same function."""
