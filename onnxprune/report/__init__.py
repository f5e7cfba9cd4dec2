"""Figures about a model: what it costs before and after."""
