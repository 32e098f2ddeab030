"""Sources of training data: frames and the actions between them."""
