"""Training: the loop, its state on disk, and models that can be shared."""
