"""Recorded inputs through a model: replay, comparison of outputs, and what-if."""
