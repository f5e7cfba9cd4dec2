"""The passes, one file for each idea. Every module in this folder is loaded; see `onnxprune.cleanup.registry`."""
