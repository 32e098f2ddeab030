"""Worlds whose recordings models are trained on."""
