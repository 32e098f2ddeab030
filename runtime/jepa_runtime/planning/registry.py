"""The registry of searches: those of this package, and those that other packages declare by entry points.

A package adds a search by an entry point that refers to a :class:`SearchMethod` of the same name::

    [project.entry-points."jepa_runtime.searches"]
    toy = "toy_search:SEARCH"

Then ``jepa-runtime drive --planner toy`` and the parameter ``search_method`` of the planner node accept it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from jepa_runtime.errors import JepaRuntimeError

if TYPE_CHECKING:
    from jepa_runtime.planning.search_method import SearchContext, SearchMethod, SearchSettings

ENTRY_POINTS = "jepa_runtime.searches"
# Not imported before use: parsers list the names.
_BUILT_IN = {
    "cem": "jepa_runtime.planning.cem:SEARCH",
    "mppi": "jepa_runtime.planning.mppi:SEARCH",
    "policy_cem": "jepa_runtime.planning.policy_cem:SEARCH",
    "refined_cem": "jepa_runtime.planning.refined_cem:SEARCH",
    "hierarchical_cem": "jepa_runtime.planning.hierarchical_cem:SEARCH",
    "steering": "jepa_runtime.planning.steering:SEARCH",
}


def search_names() -> list[str]:
    """Return the names of all searches, those of this package first."""
    return list(dict.fromkeys([*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))]))


def find_search(name: str) -> SearchMethod:
    """Return the search of this name. Names of this package take precedence.

    Raises:
        JepaRuntimeError: There is no such search, or the package that declares it is broken.
    """
    from jepa_runtime.planning.search_method import SearchMethod

    if name in _BUILT_IN:
        entry = EntryPoint(name, _BUILT_IN[name], ENTRY_POINTS)
    else:
        found = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
        if found is None:
            raise JepaRuntimeError(
                f"unknown search {name!r}: choose one of {', '.join(search_names())}",
                code="planner.unknown_search",
            )
        entry = found
    try:
        method = entry.load()
        if not isinstance(method, SearchMethod) or method.name != name:
            raise TypeError(f"{entry.value} is not a SearchMethod of this name")
    # A package can raise anything while it is imported.
    except Exception as error:
        raise JepaRuntimeError(
            f"search {name}: {entry.value} cannot be loaded: {error}: update or remove its package",
            code="planner.plugin_invalid",
        ) from error
    return method


def create_search(config: SearchSettings, context: SearchContext) -> Any:
    """Return the search with these settings, see :attr:`SearchMethod.create`.

    Raises:
        JepaRuntimeError: Its name is not registered, or it cannot drive such a robot.
    """
    return find_search(config.METHOD).create(config, context)
