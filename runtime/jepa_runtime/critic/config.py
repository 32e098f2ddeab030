"""Settings of the critic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Settings of the critic.

    Attributes:
        limit: A chunk is harmless if its observed score is at most this. With a goal, the score is the change
            of the energy over the chunk: 0 means that the robot ends no further from the goal. With a hazard,
            it is the highest hazard of its steps.
        false_veto_rate: Maximum proportion of harmless chunks that are not executed as given.
        coverage: Target coverage of the upper bounds of scores.
        warmup: Number of harmless chunks that are executed unchecked before the first intervention. At least
            ``1 / false_veto_rate - 1`` and ``1 / (1 - coverage) - 1``.
        trial_rate: Probability that a chunk is executed whatever its prediction, after the warm-up. From
            these chunks the critic learns which of those that it would veto are harmless. 0: the veto
            threshold is that of the warm-up, and is not adapted.
        scales: Factors in (0, 1) of slower variants of the given chunk, the preferred first; empty: never
            slow down. Used only if all components of an action are rates.

    Raises:
        ValueError: A setting is out of range.
    """

    limit: float = 0.0
    false_veto_rate: float = 0.05
    coverage: float = 0.9
    warmup: int = 100
    trial_rate: float = 0.1
    scales: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit):
            raise ValueError(f"limit must be finite, got {self.limit}")
        for name in ("false_veto_rate", "coverage"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        # The threshold is an order statistic of the warm-up, see conformal_quantile.
        needed = math.ceil(max(1 / self.false_veto_rate, 1 / (1 - self.coverage)) - 1 - 1e-9)
        if self.warmup < needed:
            raise ValueError(
                f"warmup must be at least {needed} for a false veto rate of {self.false_veto_rate:g} and a "
                f"coverage of {self.coverage:g}, got {self.warmup}"
            )
        if not 0 <= self.trial_rate <= 1:
            raise ValueError(f"trial_rate must be from 0 to 1, got {self.trial_rate}")
        if not all(0 < scale < 1 for scale in self.scales):
            raise ValueError(f"scales must lie between 0 and 1, got {self.scales}")
