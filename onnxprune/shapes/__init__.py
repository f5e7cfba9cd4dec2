"""Concrete sizes for every tensor, and the value of every tensor that depends on constants and shapes alone."""
