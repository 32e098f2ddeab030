"""An invented closed-loop result, for tests of its presentation."""

from __future__ import annotations

import numpy as np

from jepa_sim.closed_loop.episodes import Episode, Outcome
from jepa_sim.closed_loop.run import ClosedLoop, Drive, Film, Plan
from tests.sim.closed_loop.planes import Plane


def episode(outcome: Outcome = "reached", *, number: int = 0, steps: int = 12) -> Episode:
    return Episode(number, outcome, steps, 0.05, (8.0, 10.0, 12.0))


def film(of: Episode, frames: int = 12) -> Film:
    images = [np.full((128, 128, 3), 8 * index, np.uint8) for index in range(frames)]
    return Film(of, np.full((128, 128, 3), (255, 0, 0), np.uint8), images)


def driven(*, trained: bool = True, films: bool = True) -> ClosedLoop:
    """Return a result of two variants and a baseline: 18, 16 and 4 of 20 goals reached."""
    drives = {}
    for name, reached in (("fp32", 18), ("int8", 16), ("straight_line", 4)):
        episodes = [episode(number=number) for number in range(reached)]
        episodes += [episode("timeout", number=number, steps=80) for number in range(reached, 20)]
        drives[name] = Drive(episodes, [film(each) for each in episodes[:2]] if films else [])
    plan = Plan(seeds=(0, 1), episodes=10)
    return ClosedLoop(
        model="toy <b>1.2.3</b>",
        sha256="0" * 64,
        trained=trained,
        task=Plane().task,
        engines={"openvino:CPU": "2026"},
        plan=plan,
        planner=plan.planner,
        drives=drives,
        machine={
            "cpu": {"model": "a processor", "cores": 2},
            "versions": {"python": "3.11"},
            "load_average": 0.5,
        },
    )
