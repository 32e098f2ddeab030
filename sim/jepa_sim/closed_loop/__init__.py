"""Closed loop: a model drives in a simulated world, and what counts is whether it truly gets there."""
