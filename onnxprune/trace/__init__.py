"""Tracing: runs the graph once on labels instead of numbers."""
