"""Lossless pruning: units whose removal provably changes nothing, and the weight edits that go with it.

The graph is read once per channel instead of per number (`content`): every channel is `scale * basis + offset`, where two
channels with the same basis are multiples of each other for every input. Constants, dead channels, duplicates and positive
multiples under a Relu are all one statement, `b = r * a + e`, and what a consumer read from `b` is folded into its
weights of `a` and its bias.
"""
