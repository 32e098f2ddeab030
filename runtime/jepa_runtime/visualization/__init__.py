"""Visualize a model's latents and predictions: atlas of frames, map of futures, topics and live viewers."""
