"""The cross-entropy method over action sequences, as ask and tell: whoever predicts the futures stays
outside.

Source: Rubinstein and Kroese, "The Cross-Entropy Method" (2004), in the form world-model planners use it: a
diagonal Gaussian over the actions of every step, refitted to the ``topk`` cheapest candidates, warm-started
from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
# An energy below this share of the best so far is progress towards a goal.
PROGRESS = 0.98


@dataclass(frozen=True, kw_only=True)
class ActionLimits:
    """What the robot can do: a box ``low`` … ``high`` [A] and, where it has one, a greatest norm (same
    unit).
    """

    low: Floats32
    high: Floats32
    max_norm: float | None = None

    def clip(self, actions: Floats32) -> Floats32:
        """``actions`` [..., A] brought inside the limits."""
        actions = np.clip(actions, self.low, self.high)
        if self.max_norm is not None:
            norm = np.linalg.norm(actions, axis=-1, keepdims=True)
            actions = actions * np.minimum(1.0, self.max_norm / np.maximum(norm, 1e-9)).astype(np.float32)
        return actions.astype(np.float32, copy=False)


@dataclass(frozen=True, kw_only=True)
class CEMConfig:
    """Settings. Standard deviations are fractions of half the action range; ``constant_fraction`` of the
    candidates hold one action over the whole horizon, which finds the way around a wall that independent
    steps average out."""

    num_samples: int = 64
    horizon: int = 8
    topk: int = 8
    init_std: float = 0.8
    min_std: float = 0.1
    constant_fraction: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.num_samples:
            raise ValueError(f"topk must be between 1 and num_samples ({self.num_samples}), got {self.topk}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {self.horizon}")


class CEM:
    """Searches the action sequence of least cost.

    ``ask`` gives candidates [K, H, A], ``tell`` takes their costs [K], ``mean`` [H, A] is the plan. The
    first candidate is always the plan itself, so that a good plan is never lost to chance."""

    def __init__(self, config: CEMConfig, limits: ActionLimits, *, seed: int) -> None:
        self.config = config
        self.limits = limits
        self._rng = np.random.default_rng(seed)
        self._scale: Floats32 = ((limits.high - limits.low) / 2).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget the plan: zero mean, widest spread."""
        size = (self.config.horizon, len(self.limits.low))
        self.mean: Floats32 = self.limits.clip(np.zeros(size, np.float32))
        self._std = np.full(size, self.config.init_std, np.float32) * self._scale
        self._asked: Floats32 | None = None

    def ask(self) -> Floats32:
        """Candidates float32 [K, H, A] inside the limits."""
        count, (steps, width) = self.config.num_samples, self.mean.shape
        noise = self._rng.standard_normal((count, steps, width), dtype=np.float32)
        constant = round(count * self.config.constant_fraction)
        samples: Floats32 = self.mean + noise * self._std
        samples[count - constant :] = noise[count - constant :, :1] * self.config.init_std * self._scale
        samples[0] = self.mean
        self._asked = self.limits.clip(samples)
        return self._asked

    def tell(self, costs: NDArray[np.floating]) -> None:
        """Refit to the cheapest of the candidates last asked for; ``costs`` [K], not-a-number counts as
        worst.
        """
        if self._asked is None or costs.shape != (self.config.num_samples,):
            raise ValueError(
                f"tell needs one cost for each of the {self.config.num_samples} candidates of the last ask, "
                f"got {costs.shape}"
            )
        order = np.argsort(np.nan_to_num(costs, nan=np.inf, posinf=np.inf), kind="stable")[: self.config.topk]
        elite = self._asked[order]
        self.mean = elite.mean(axis=0)
        self._std = np.maximum(elite.std(axis=0), self.config.min_std * self._scale).astype(np.float32)
        self._asked = None

    def escape(self) -> Floats32:
        """One action [A] in any direction, as large as the limits allow, to get away from where the plan is
        wrong about the world; the plan is forgotten.
        """
        self.reset()
        direction = self._rng.standard_normal(len(self._scale), dtype=np.float32)
        direction /= max(float(np.abs(direction).max()), 1e-9)
        return self.limits.clip((self.limits.low + self.limits.high) / 2 + direction * self._scale)

    def shift(self, steps: int = 1) -> None:
        """Time went on by ``steps``: drop the actions done, hold the last one, and widen the search again."""
        steps = min(steps, self.config.horizon)
        self.mean = np.concatenate([self.mean[steps:], np.repeat(self.mean[-1:], steps, axis=0)])
        self._std = np.full(self.mean.shape, self.config.init_std / 2, np.float32) * self._scale
        self._asked = None


def plan_costs(energies: Floats32) -> Floats32:
    """Cost [K] of candidates from the energies [K, H] along them: the sum, which prefers to arrive early
    and to stay.
    """
    costs: Floats32 = energies.sum(axis=1, dtype=np.float32)
    return costs
