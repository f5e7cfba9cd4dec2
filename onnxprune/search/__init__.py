"""Sensitivity of groups, and families of pruned models: one run of statistics, many evaluations."""
