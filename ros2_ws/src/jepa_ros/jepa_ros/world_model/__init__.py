"""The parts of the world_model node."""
