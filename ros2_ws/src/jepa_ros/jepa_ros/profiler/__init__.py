"""Latency on the running graph, measured by a camera process and the profiler around the world model."""
