"""What differs between the environments that benchmarks/stable_worldmodel_goals.py evaluates in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_worldmodel_environments.planning import BlockActions, PlannerSettings

from jepa_recipes.stable_worldmodel.recordings import Source
from jepa_runtime import Bundle
from jepa_runtime.errors import JepaRuntimeError


@dataclass(frozen=True)
class Pairs:
    """A set of start and goal pairs.

    Attributes:
        offset: Steps of the recording between them.
        budget: Steps of an episode.
        required: Whether the exit status depends on it.
        eligible: Return which pairs are eligible, from the first state column at starts and goals; None: all.
    """

    offset: int
    budget: int
    required: bool
    eligible: Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class Environment:
    """An environment of the package and its evaluation.

    Attributes:
        source: Recordings that starts and goals come from.
        recordings: Their number, unless another is requested.
        recorded_with: What they were recorded with, for the report and its table.
        sets: Sets of pairs by name.
        start: Methods of the environment that set its initial state and the goal, as the package's evaluator
            takes them.
        baselines: Creates the policies without a model from the package and a seed, by name.
        block: Steps of the environment in an action of a bundle.
        actions: Returns how a bundle takes the environment's actions, or raises JepaRuntimeError if the
            bundle is for another robot.
        planner: Settings of the planner, unless others are requested.
        required_rate: Success rate that a bundle should reach on the required sets.
    """

    source: Source
    recordings: int
    recorded_with: str
    sets: Mapping[str, Pairs]
    start: list[dict[str, Any]]
    baselines: Callable[[ModuleType, int], dict[str, Callable[[], Any]]]
    block: int
    actions: Callable[[Bundle], BlockActions]
    planner: PlannerSettings
    required_rate: float

    def choose(
        self, dataset: Any, pairs: Pairs, number: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return episodes and first steps of pairs, drawn evenly over all rows as by the package's script."""
        lengths = np.asarray(dataset.lengths)
        episode = np.repeat(np.arange(len(lengths)), lengths)
        step = np.concatenate([np.arange(length) for length in lengths])
        possible = np.flatnonzero(step <= lengths[episode] - pairs.offset - 1)
        if pairs.eligible is not None:
            first = np.asarray(dataset.get_col_data(self.source.states[0]))[:, 0]
            possible = possible[pairs.eligible(first[possible], first[possible + pairs.offset])]
        if len(possible) < number:
            raise JepaRuntimeError(f"{len(possible)} pairs instead of {number}: record more (--recordings)")
        chosen = np.sort(np.random.default_rng(seed).choice(possible, number, replace=False))
        return episode[chosen], step[chosen]
