"""What is known about words without a model."""
