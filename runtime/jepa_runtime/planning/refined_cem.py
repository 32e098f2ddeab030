"""CEM, then descent along an estimated gradient.

Sources: Bharadhwaj et al., "Model-Predictive Control via Cross-Entropy and Gradient-Based Optimization"
(arXiv:2004.08763), which interleaves CEM with gradient steps. Compiled graphs give no gradients: here they
are estimated from costs of antithetic perturbations of all actions at once, the simultaneous perturbation of
Spall (1992), averaged over the candidates of one prediction. The plan is always the cheapest evaluated
candidate, so that a wrong estimate does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.planning.action_limits import Floats32
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.search_method import SearchMethod

# Steps along the gradient that are evaluated, as multiples of the largest one.
_STEPS = np.array([1.0, 0.5, 0.25, 0.125], np.float32)


@dataclass(frozen=True, kw_only=True)
class RefinedCEMConfig(CEMConfig):
    """Settings of the cross-entropy method with refinement.

    Attributes:
        refine_after: Iterations of CEM for each step of the plan; those after are refinement.
        perturbation: Size of the perturbations, as a fraction of half the action range.
        largest_step: Largest change of an action in an iteration, the same.
    """

    METHOD: ClassVar[str] = "refined_cem"

    refine_after: int = 4
    perturbation: float = 0.05
    largest_step: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refine_after < 1:
            raise ValueError(f"refine_after must be at least 1, got {self.refine_after}")
        for name in ("perturbation", "largest_step"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")


class RefinedCEM(CEM):
    """The cross-entropy method with refinement."""

    config: RefinedCEMConfig

    def reset(self) -> None:
        super().reset()
        self._begin()

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        super().shift(steps, executed=executed)
        self._begin()

    def ask(self) -> Floats32:
        if self._iterations < self.config.refine_after:
            return super().ask()
        count = self.config.num_samples
        steps = _STEPS if self._gradient is not None else _STEPS[:0]
        ahead = self.mean - steps[:, None, None] * self._direction()
        pairs = max((count - 1 - len(ahead)) // 2, 0)
        signs = self._rng.integers(0, 2, (pairs, *self.mean.shape)).astype(np.float32) * 2 - 1
        moved = signs * np.float32(self.config.perturbation) * self._scale
        samples = np.concatenate([self.mean[None], ahead, self.mean + moved, self.mean - moved])[:count]
        unused = np.repeat(self.mean[None], count - len(samples), axis=0)
        self._pairs, self._first = pairs, 1 + len(ahead)
        self._candidates = self.limits.clip(np.concatenate([samples, unused]), self.executed)
        return self._candidates

    def tell(self, costs: NDArray[np.floating]) -> None:
        is_refining = self._iterations >= self.config.refine_after
        if not is_refining:
            super().tell(costs)
        else:
            candidates = self._answered(costs)
            self._estimate(candidates, costs)
            finite = np.where(np.isfinite(costs), costs, np.inf)
            if finite.min() < np.inf:
                self.mean = candidates[int(np.argmin(finite))]
        self._iterations += 1

    def _begin(self) -> None:
        self._iterations = 0
        self._gradient: Floats32 | None = None

    def _direction(self) -> Floats32:
        """Return the largest step [H, A] along the gradient."""
        if self._gradient is None:
            return np.zeros_like(self.mean)
        size = max(float(np.abs(self._gradient).max()), float(np.finfo(np.float32).tiny))
        step: Floats32 = self._gradient / np.float32(size) * np.float32(self.config.largest_step)
        return step * self._scale

    def _estimate(self, candidates: Floats32, costs: NDArray[np.floating]) -> None:
        """Estimate the gradient [H, A] in units of half the action range."""
        ups, downs = (slice(start, start + self._pairs) for start in (self._first, self._first + self._pairs))
        is_finite = np.isfinite(costs[ups]) & np.isfinite(costs[downs])
        if not is_finite.any():
            self._gradient = None
            return
        change = (costs[ups][is_finite] - costs[downs][is_finite]).astype(np.float32)
        # Limits may have shortened a perturbation.
        scale = np.where(self._scale > 0, self._scale, np.float32(1))
        moved = (candidates[ups] - candidates[downs]) / scale
        self._gradient = np.tensordot(change, moved[is_finite], 1) / is_finite.sum()


SEARCH = SearchMethod(
    name=RefinedCEMConfig.METHOD,
    summary="as cem, then along a gradient that is estimated from energies",
    source="Bharadhwaj et al. (arXiv:2004.08763), with the gradient of Spall, Multivariate Stochastic "
    "Approximation Using a Simultaneous Perturbation Gradient Approximation (1992)",
    config=RefinedCEMConfig,
    create=lambda config, context: RefinedCEM(config, context.limits, seed=context.seed),
)
