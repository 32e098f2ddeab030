"""Closed-loop evaluation: a model drives in a simulated world, and only goals that it truly reaches count."""
