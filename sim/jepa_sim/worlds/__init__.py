"""Simulated worlds, each with a robot and a camera, for demonstrations, training data and evaluation."""

from jepa_sim.worlds.interface import HasStraightLine, Task, World
from jepa_sim.worlds.registry import make_world, worlds
from jepa_sim.worlds.two_rooms_world import TwoRooms

__all__ = ["HasStraightLine", "Task", "TwoRooms", "World", "make_world", "worlds"]
