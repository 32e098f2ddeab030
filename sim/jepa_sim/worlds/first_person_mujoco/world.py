"""First-person rooms in MuJoCo as worlds of ``jepa-runtime drive``."""

from __future__ import annotations

from jepa_sim.worlds.first_person.world import FirstPersonRooms
from jepa_sim.worlds.first_person_mujoco.scene import MuJoCoScene


def level_0() -> FirstPersonRooms:
    """Create the world ``first_person_mujoco_l0``."""
    return _create("L0")


def level_1() -> FirstPersonRooms:
    """Create the world ``first_person_mujoco_l1``."""
    return _create("L1")


def level_2() -> FirstPersonRooms:
    """Create the world ``first_person_mujoco_l2``."""
    return _create("L2")


def _create(level: str) -> FirstPersonRooms:
    return FirstPersonRooms(level, simulator=MuJoCoScene, name="first-person rooms in MuJoCo")
