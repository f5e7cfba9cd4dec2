"""Metrics: what a model reaches on labelled data, and what a change of it is worth."""
