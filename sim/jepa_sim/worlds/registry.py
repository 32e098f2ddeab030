"""Worlds by name: ours, those that installed packages bring, and any ``module:attribute``.

A package brings a world by an entry point of the group :data:`GROUP`, which names something that makes one
when it is called without arguments."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from jepa_runtime.errors import WorldError
from jepa_sim.worlds.interface import Task, World

GROUP = "jepa_edge.worlds"
OURS = {
    "two_rooms": "jepa_sim.worlds.two_rooms_world:random_layouts",
    "two_rooms_fixed": "jepa_sim.worlds.two_rooms_world:fixed_layout",
    "reacher": "jepa_sim.worlds.reacher:Reacher",
}
_MEMBERS = {member for member in vars(World) if not member.startswith("_")}


def worlds() -> dict[str, str]:
    """All that can be named, and what makes them. Ours keep their names."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | OURS


def make_world(name: str) -> World:
    """The world of this name, or the one that ``module:attribute`` makes.

    Raises:
        WorldError: there is none, it cannot be made here, or what was made is no world.
    """
    known = worlds()
    if ":" not in name and name not in known:
        raise WorldError(
            f"no world is called {name!r}; there are: {', '.join(sorted(known))}; another one is given as "
            "module:attribute"
        )
    value = known.get(name, name)
    try:
        made = EntryPoint(name, value, GROUP).load()()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise WorldError(
            f"{name}: {value} cannot be loaded: {error}; it must be something that makes a world, in a "
            "module that Python finds (PYTHONPATH)"
        ) from error
    if not isinstance(made, World):
        missing = sorted(member for member in _MEMBERS if not hasattr(made, member))
        raise WorldError(
            f"{name}: {value} makes {type(made).__name__}, which is no world: it has no {', '.join(missing)} "
            "(see jepa_sim.worlds.World)"
        )
    if not isinstance(made.task, Task):
        raise WorldError(
            f"{name}: the task of {value} must be a jepa_sim.worlds.Task, got {type(made.task).__name__}"
        )
    return made
