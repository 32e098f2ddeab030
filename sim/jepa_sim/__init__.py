"""Simulated worlds and closed-loop evaluation of world models. Not needed on a robot."""
