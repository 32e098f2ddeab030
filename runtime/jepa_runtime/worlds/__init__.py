"""Simulated worlds: robots that move and cameras that see them, for demonstrations, training data and
evaluation.
"""

from jepa_runtime.worlds.two_rooms import TwoRooms

__all__ = ["TwoRooms"]
