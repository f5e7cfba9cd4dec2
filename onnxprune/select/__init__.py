"""Selection: which units go. Criteria score units by their weights and activations, an allocation chooses by score."""
