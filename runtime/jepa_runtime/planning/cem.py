"""The cross-entropy method over action sequences.

Source: Rubinstein and Kroese, "The Cross-Entropy Method" (2004), as world-model planners use it: refitted to
the ``topk`` candidates of lowest cost, warm-started from step to step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.planning.action_limits import Floats32
from jepa_runtime.planning.search import Search, SearchConfig
from jepa_runtime.planning.search_method import SearchMethod


@dataclass(frozen=True, kw_only=True)
class CEMConfig(SearchConfig):
    """Settings of the cross-entropy method.

    Attributes:
        momentum_mean: Weight of the old mean in the new one.
        momentum_std: Weight of the old spread in the new one.
    """

    METHOD: ClassVar[str] = "cem"

    momentum_mean: float = 0.0
    momentum_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("momentum_mean", "momentum_std"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


class CEM(Search[CEMConfig]):
    """The cross-entropy method."""

    def _refit(self, elites: Floats32, costs: NDArray[np.floating]) -> None:
        mean, std = elites.mean(axis=0), elites.std(axis=0)
        self.mean = mean + np.float32(self.config.momentum_mean) * (self.mean - mean)
        self._std = self._floor(std + np.float32(self.config.momentum_std) * (self._std - std))


SEARCH = SearchMethod(
    name=CEMConfig.METHOD,
    summary="among random candidates, by their energies",
    source="Rubinstein and Kroese, The Cross-Entropy Method (2004)",
    config=CEMConfig,
    create=lambda config, context: CEM(config, context.limits, seed=context.seed),
)
