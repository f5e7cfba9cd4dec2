"""Gradients of a model's loss by reverse mode over its own nodes: which sees only arrays, and needs no other framework."""
