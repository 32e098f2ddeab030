"""What episodes say together: shares with their intervals, and one driver against another in the same
episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from jepa_runtime.util.proportions import paired_difference, wilson
from jepa_sim.closed_loop.episodes import Episode, Outcome


@dataclass(frozen=True)
class Goals:
    """Goals reached in ``episodes`` episodes: the share and its 95 % interval (Wilson), the mean steps of
    those reached (None: none was), and how many ended how.
    """

    episodes: int
    successes: int
    rate: float
    interval: tuple[float, float]
    mean_steps: float | None
    outcomes: dict[Outcome, int]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Goals:
        """Those of ``episodes``, one at least."""
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
    """Milliseconds from a frame to the action, over all decisions."""

    p50: float
    p95: float
    decisions: int

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> PlanTime:
        """That of ``episodes``, one at least."""
        spent = np.concatenate([episode.plan_ms for episode in episodes])
        return cls(float(np.percentile(spent, 50)), float(np.percentile(spent, 95)), len(spent))


@dataclass(frozen=True)
class Difference:
    """One driver against another in the same episodes.

    Attributes:
        gained, lost: episodes that only the one, and only the other, reached.
        rate: of the one less that of the other.
        interval: 95 % of that (Newcombe, paired).
    """

    gained: int
    lost: int
    rate: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, one: Sequence[Episode], other: Sequence[Episode]) -> Difference:
        """Of drivers that had the same episodes in the same order."""
        pairs = Counter(
            (mine.outcome == "reached", theirs.outcome == "reached")
            for mine, theirs in zip(one, other, strict=True)
        )
        gained, lost = pairs[True, False], pairs[False, True]
        interval = paired_difference(pairs[True, True], gained, lost, pairs[False, False])
        return cls(gained, lost, (gained - lost) / len(one), interval)
