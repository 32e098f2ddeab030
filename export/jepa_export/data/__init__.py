"""Training data: recordings of frames and of the actions between them."""
