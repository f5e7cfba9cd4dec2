"""Recovery: what the removed channels did is folded into the weights that stay, in closed form."""
