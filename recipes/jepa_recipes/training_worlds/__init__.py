"""Simulated worlds that record what models are trained on."""
