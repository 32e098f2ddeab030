"""Simulated worlds: robots that move and cameras that see them, for demonstrations, training data and
evaluation.
"""

from jepa_runtime.worlds.base import HasStraightLine, Task, World
from jepa_runtime.worlds.find import make_world, worlds
from jepa_runtime.worlds.two_rooms import TwoRooms

__all__ = ["HasStraightLine", "Task", "TwoRooms", "World", "make_world", "worlds"]
