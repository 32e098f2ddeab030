"""Statistics of episodes: proportions with intervals, and paired differences between drivers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from jepa_runtime.util import paired_difference, wilson
from jepa_sim.closed_loop.episodes import Episode, Outcome


@dataclass(frozen=True)
class Goals:
    """Goals reached.

    Attributes:
        episodes: Number of episodes.
        successes: Number of goals reached.
        rate: Their proportion.
        interval: 95 % interval of the rate (Wilson).
        mean_steps: Mean duration of the episodes that reached their goal, in model steps; None: none did.
        outcomes: Number of episodes by outcome.
    """

    episodes: int
    successes: int
    rate: float
    interval: tuple[float, float]
    mean_steps: float | None
    outcomes: dict[Outcome, int]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Goals:
        """Return the statistics of at least one episode."""
        reached = [episode.steps for episode in episodes if episode.outcome == "reached"]
        counts = Counter(episode.outcome for episode in episodes)
        return cls(
            episodes=len(episodes),
            successes=len(reached),
            rate=len(reached) / len(episodes),
            interval=wilson(len(reached), len(episodes)),
            mean_steps=float(np.mean(reached)) if reached else None,
            outcomes={outcome: counts[outcome] for outcome in get_args(Outcome)},
        )


@dataclass(frozen=True)
class PlanTime:
    """Milliseconds from an image to the action, over all decisions."""

    p50: float
    p95: float
    decisions: int

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> PlanTime:
        """Return the statistics of at least one episode."""
        times = np.concatenate([episode.plan_ms for episode in episodes])
        return cls(float(np.percentile(times, 50)), float(np.percentile(times, 95)), len(times))


@dataclass(frozen=True)
class Difference:
    """Difference between two drivers in the same episodes.

    Attributes:
        gained: Episodes that only the first driver reached.
        lost: Episodes that only the second one reached.
        rate: Success rate of the first minus that of the second.
        interval: 95 % interval of the difference (Newcombe, paired).
    """

    gained: int
    lost: int
    rate: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, first: Sequence[Episode], second: Sequence[Episode]) -> Difference:
        """Return the difference of drivers with the same episodes in the same order."""
        pairs = Counter(
            (one.outcome == "reached", other.outcome == "reached")
            for one, other in zip(first, second, strict=True)
        )
        gained, lost = pairs[True, False], pairs[False, True]
        interval = paired_difference(pairs[True, True], gained, lost, pairs[False, False])
        return cls(gained, lost, (gained - lost) / len(first), interval)
