"""The supervised warm start: examples from real responses, and training of position and sentence on them."""
