"""Per-channel arithmetic y = s·x + t that weights can take over.

`affine.py` reads it from a node, `plan.py` carries it through the graph, and the rules beside them say what an operator does
with it: `linear.py` and `scaled.py` (weights that take it in), `moves.py` and `through.py` (operators that hand it on).
"""
