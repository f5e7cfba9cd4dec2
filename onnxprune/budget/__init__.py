"""Budgets: what a width costs, what it loses, and the widths that lose least within what may be spent."""
