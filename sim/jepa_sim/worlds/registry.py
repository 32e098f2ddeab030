"""Worlds by name: built-in worlds, those of installed packages, and any ``module:attribute``.

A package adds a world by an entry point of the group :data:`GROUP`, which names a callable without arguments
that returns the world.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from jepa_runtime.errors import WorldError
from jepa_sim.worlds.interface import Task, World

GROUP = "jepa_edge.worlds"
BUILT_IN = {
    "two_rooms": "jepa_sim.worlds.two_rooms_world:random_layouts",
    "two_rooms_fixed": "jepa_sim.worlds.two_rooms_world:fixed_layout",
    "reacher": "jepa_sim.worlds.reacher:Reacher",
    "first_person_l0": "jepa_sim.worlds.first_person.world:level_0",
    "first_person_l1": "jepa_sim.worlds.first_person.world:level_1",
    "first_person_l2": "jepa_sim.worlds.first_person.world:level_2",
    "first_person_tour": "jepa_sim.worlds.first_person.world:tour",
    "first_person_mujoco_l0": "jepa_sim.worlds.first_person_mujoco.world:level_0",
    "first_person_mujoco_l1": "jepa_sim.worlds.first_person_mujoco.world:level_1",
    "first_person_mujoco_l2": "jepa_sim.worlds.first_person_mujoco.world:level_2",
}
_MEMBERS = {member for member in vars(World) if not member.startswith("_")}


def worlds() -> dict[str, str]:
    """Return the callable of each world by name. Built-in names take precedence."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | BUILT_IN


def make_world(name: str) -> World:
    """Create the world of this name, or the one that ``module:attribute`` returns.

    Raises:
        WorldError: There is no such world, it cannot be created here, or the result is not a world.
    """
    known = worlds()
    if ":" not in name and name not in known:
        raise WorldError(
            f"unknown world {name!r}: choose one of {', '.join(sorted(known))}, or name another one as "
            "module:attribute",
            code="sim.unknown_world",
        )
    value = known.get(name, name)
    try:
        world = EntryPoint(name, value, GROUP).load()()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise WorldError(
            f"{name}: {value} cannot be loaded: {error}: it must be a callable that returns a world, in an "
            "importable module (PYTHONPATH)",
            code="sim.world_not_loadable",
        ) from error
    if not isinstance(world, World):
        missing = sorted(member for member in _MEMBERS if not hasattr(world, member))
        raise WorldError(
            f"{name}: {value} returns {type(world).__name__}, which is not a world: it lacks "
            f"{', '.join(missing)} (see jepa_sim.worlds.World)",
            code="sim.not_a_world",
        )
    if not isinstance(world.task, Task):
        raise WorldError(
            f"{name}: the task of {value} must be a jepa_sim.worlds.Task, got {type(world.task).__name__}",
            code="sim.not_a_world",
        )
    return world
