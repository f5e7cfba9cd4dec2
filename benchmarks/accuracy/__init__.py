"""What pruning without training costs: tasks, contestants, measurement and report of `accuracy.py`."""
