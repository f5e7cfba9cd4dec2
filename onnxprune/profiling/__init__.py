"""What a model costs, layer by layer, from shapes alone: multiply-accumulates, weights, activations, memory."""
