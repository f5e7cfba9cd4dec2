"""Selection: which units go. Criteria score slices of weights, an allocation turns scores into removals."""
