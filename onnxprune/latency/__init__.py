"""What widths cost in time: pieces of the model at several widths, measured where it will run."""
