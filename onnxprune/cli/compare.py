"""`onnxprune compare`."""
def compare() -> None:
    """Compare two models."""
