"""Components of the world_model node."""
