"""From a file to a self-contained `ModelProto`, from there to a graph that can be edited, and back to a file."""
