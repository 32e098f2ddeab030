"""Model predictive path integral control over action sequences: elites weighted by their cost.

Source: Williams et al., "Information Theoretic MPC for Model-Based Reinforcement Learning" (2017), without
its control cost; with elites and an optional refitted spread as in TD-MPC (Hansen et al. 2022).
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
class MPPIConfig(SearchConfig):
    """Settings of MPPI; ``topk`` is usually all of ``num_samples``, or a tenth.

    Attributes:
        temperature: Lambda, in the unit of the costs. A lower value gives the lowest cost more weight. Some
            implementations use this name for its inverse.
        refit_std: Fit the spread to the weighted elites too; otherwise it does not change.
    """

    METHOD: ClassVar[str] = "mppi"

    topk: int = 64
    temperature: float = 1.0
    refit_std: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


class MPPI(Search[MPPIConfig]):
    """Model predictive path integral control."""

    def _refit(self, elites: Floats32, costs: NDArray[np.floating]) -> None:
        weights = path_weights(costs, self.config.temperature)
        self.mean = np.tensordot(weights, elites, 1)
        if self.config.refit_std:
            variance = np.tensordot(weights, np.square(elites - self.mean), 1)
            self._std = self._floor(np.sqrt(variance))


def path_weights(costs: NDArray[np.floating], temperature: float) -> Floats32:
    """Return the normalized weights [K] exp(-(cost - lowest) / temperature) of ``costs`` [K]."""
    weights = np.exp(-(costs - costs.min()) / temperature)
    normalized: Floats32 = (weights / weights.sum()).astype(np.float32)
    return normalized


SEARCH = SearchMethod(
    name=MPPIConfig.METHOD,
    summary="the same, with candidates weighted by their energies",
    source="Williams et al., Information Theoretic MPC for Model-Based Reinforcement Learning (2017)",
    config=MPPIConfig,
    create=lambda config, context: MPPI(config, context.limits, seed=context.seed),
)
