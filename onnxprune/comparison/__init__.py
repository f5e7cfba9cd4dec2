"""Two models on the same samples: how far their outputs are apart, where they part first, and what that costs on a task."""
