"""Sparsity: what zeros in weights would cost in error. It is told, not done: common runtimes are not faster with it."""
