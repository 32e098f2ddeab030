"""Goals reached in the first-person rooms by the code that drives the robot."""

from __future__ import annotations

from typing import Any

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import RouteError
from jepa_runtime.model import WorldModel
from jepa_runtime.util import wilson
from jepa_sim.closed_loop.first_person.protocol import Driver, drive, mission_of
from jepa_sim.closed_loop.first_person.robot_driver import robot_driver
from jepa_sim.worlds.first_person.levels import LEVELS, Level

# A goal nearby, a goal in the same room, and the end of a route that was shown once.
LEVEL_NAMES = ("L0", "L1", "TR")


def goals_reached(bundle: Bundle, episodes: int) -> dict[str, dict[str, Any]]:
    """Return the rate of goals reached at each of :data:`LEVEL_NAMES` in held-out layouts.

    The preferred variant of the bundle drives.
    """
    found = {}
    with WorldModel.open(bundle) as model:
        driver = robot_driver(model)
        for name in LEVEL_NAMES:
            reached = sum(_is_reached(LEVELS[name], driver, seed) for seed in range(episodes))
            found[name] = {
                "episodes": episodes,
                "reached": reached,
                "rate": reached / episodes,
                "interval": wilson(reached, episodes),
            }
    return found


def _is_reached(level: Level, driver: Driver, seed: int) -> bool:
    try:
        return drive(level, mission_of(level, seed), driver, seed=seed).reached
    # A model that learned little cannot tell the places of a route apart.
    except RouteError:
        return False
