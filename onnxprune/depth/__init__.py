"""Whole branches of residual sums as a choice: which can go, what that does, and the proof."""
