"""Verification: the pruned model against its source, in ONNX Runtime."""
