"""Small pure functions from tensors to numbers."""
