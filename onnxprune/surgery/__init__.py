"""Surgery: slices weights, lets the numbers that count them follow, and puts everything back for the proof."""
