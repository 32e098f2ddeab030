"""What searches over action sequences have in common, as ask and tell: whoever predicts the futures stays
outside. A diagonal Gaussian over the actions of every step gives candidates, and is refitted to what they
cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.planning.action_limits import ActionLimits, Floats32


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of every search. Standard deviations are fractions of half the action range.

    Attributes:
        num_samples: K, candidates per iteration.
        horizon: H.
        topk: how many of the cheapest candidates (the elites) count.
        init_std, min_std: of the first iteration, and of every later one at least.
        constant_fraction: of the candidates hold one action over the whole horizon, drawn about the least
            that is allowed, which finds the way around a wall that independent steps average out.
        noise_beta: power of the noise falls with frequency as 1/f^beta along the horizon; 0 is white. Above
            it, candidates go further in one direction (iCEM, Pinneri et al. 2020).
        keep_elites: so many of the last elites are candidates again (iCEM).
        warm_start: the next plan begins from this one, moved on, with half the spread; without it, as the
            first did, from zero with all of it. The word is that of stable-worldmodel.
    """

    num_samples: int = 64
    horizon: int = 8
    topk: int = 8
    init_std: float = 0.8
    min_std: float = 0.1
    constant_fraction: float = 0.25
    noise_beta: float = 0.0
    keep_elites: int = 0
    warm_start: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.num_samples:
            raise ValueError(f"topk must be between 1 and num_samples ({self.num_samples}), got {self.topk}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {self.horizon}")
        for name in ("init_std", "min_std", "noise_beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.constant_fraction <= 1:
            raise ValueError(f"constant_fraction must be between 0 and 1, got {self.constant_fraction}")
        if not 0 <= self.keep_elites <= min(self.topk, self.num_samples - 1):
            raise ValueError(
                f"keep_elites must be between 0 and topk ({self.topk}), and leave room for the plan, got "
                f"{self.keep_elites}"
            )


Config = TypeVar("Config", bound=SearchConfig)


class Search(ABC, Generic[Config]):
    """Searches the action sequence of least cost.

    ``ask`` gives candidates [K, H, A], ``tell`` takes their costs [K], ``mean`` [H, A] is the plan. The
    first candidate is always the plan itself, so that a good plan is never lost to chance. Everything that is
    drawn comes from one generator: the same seed and costs give the same plan.

    Attributes:
        mean: the plan, within the limits.
        executed: [A], what the robot did last, from where ``limits.max_change`` counts; ``shift`` keeps it.
            Set it where the robot did something else. None: unknown.
    """

    def __init__(self, config: Config, limits: ActionLimits, *, seed: int) -> None:
        self.config = config
        self.limits = limits
        self.executed: Floats32 | None = None
        self._rng = np.random.default_rng(seed)
        self._scale: Floats32 = ((limits.high - limits.low) / 2).astype(np.float32)
        self._colour = colouring(config.horizon, config.noise_beta) if config.noise_beta else None
        self.reset()

    def reset(self) -> None:
        """Forget the plan: zero mean, widest spread."""
        size = (self.config.horizon, len(self.limits.low))
        self.mean: Floats32 = self.limits.clip(np.zeros(size, np.float32), self.executed)
        self._std = np.full(size, self.config.init_std, np.float32) * self._scale
        self._kept: Floats32 = np.empty((0, *size), np.float32)
        self._asked: Floats32 | None = None

    def ask(self) -> Floats32:
        """Candidates float32 [K, H, A] inside the limits."""
        count, (steps, width) = self.config.num_samples, self.mean.shape
        noise = self._rng.standard_normal((count, steps, width), dtype=np.float32)
        if self._colour is not None:
            noise = np.matmul(self._colour, noise)
        constant = round(count * self.config.constant_fraction)
        samples: Floats32 = self.mean + noise * self._std
        held = noise[count - constant :, :1] * self.config.init_std * self._scale
        samples[count - constant :] = self.limits.clip(np.zeros((1, width), np.float32)) + held
        samples[0] = self.mean
        samples[1 : 1 + len(self._kept)] = self._kept
        self._asked = self.limits.clip(samples, self.executed)
        return self._asked

    def tell(self, costs: NDArray[np.floating]) -> None:
        """Refit to what the candidates last asked for cost; ``costs`` [K]. One that costs no finite number is
        no elite: of it nothing is known. Where none does, the plan stays.

        Raises:
            ValueError: there is not one cost for each of them.
        """
        if self._asked is None or costs.shape != (self.config.num_samples,):
            raise ValueError(
                f"tell needs one cost for each of the {self.config.num_samples} candidates of the last "
                f"ask, got {costs.shape}"
            )
        order = np.argsort(costs, kind="stable")
        order = order[np.isfinite(costs[order])][: self.config.topk]
        elites = self._asked[order]
        if len(elites):
            self._refit(elites, costs[order])
        # Of allowed elites the mean is allowed, but for rounding and for what of it comes from before.
        self.mean = self.limits.clip(self.mean, self.executed)
        self._kept = elites[: self.config.keep_elites]
        self._asked = None

    def escape(self) -> Floats32:
        """One action [A] in any direction, as large as the limits allow, to get away from where the plan is
        wrong about the world; the plan is forgotten.
        """
        self.reset()
        direction = self._rng.standard_normal(len(self._scale), dtype=np.float32)
        direction /= max(float(np.abs(direction).max()), 1e-9)
        action = (self.limits.low + self.limits.high) / 2 + direction * self._scale
        escaping: Floats32 = self.limits.clip(action[None], self.executed)[0]
        return escaping

    def directions(self, speed: float) -> Floats32:
        """Constant actions [K, H, A] in random directions, within the limits and at most this proportion of
        what the box allows. The plan is forgotten.
        """
        self.reset()
        count, (steps, width) = self.config.num_samples, self.mean.shape
        ways = self._rng.standard_normal((count, 1, width), dtype=np.float32)
        ways /= np.maximum(np.abs(ways).max(axis=-1, keepdims=True), np.float32(1e-9))
        return self.limits.clip(
            np.repeat(ways * self._scale * np.float32(speed), steps, axis=1), self.executed
        )

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        """Time went on by ``steps``: drop the actions done, hold the last one, and widen the search again; or
        begin anew, without ``warm_start``.

        Args:
            executed: [A], what the robot did last; None: as planned.
        """
        steps = min(steps, self.config.horizon)
        if executed is not None:
            self.executed = executed
        elif steps:
            self.executed = self.mean[steps - 1].copy()
        if not self.config.warm_start:
            self.reset()
            return
        self.mean = self.limits.clip(_shifted(self.mean, steps), self.executed)
        self._kept = _shifted(self._kept, steps)
        self._std = np.full(self.mean.shape, self.config.init_std / 2, np.float32) * self._scale
        self._asked = None

    @abstractmethod
    def _refit(self, elites: Floats32, costs: NDArray[np.floating]) -> None:
        """Fit mean and spread to ``elites`` [n, H, A] (1 to topk), the cheapest first, of ``costs`` [n]."""

    def _floor(self, std: Floats32) -> Floats32:
        floored: Floats32 = np.maximum(std, self.config.min_std * self._scale).astype(np.float32)
        return floored


def _shifted(actions: Floats32, steps: int) -> Floats32:
    """``actions`` [..., H, A] without the first ``steps``, the last one held for as long."""
    held = np.repeat(actions[..., -1:, :], steps, axis=-2)
    following: Floats32 = np.concatenate([actions[..., steps:, :], held], axis=-2)
    return following


def colouring(horizon: int, beta: float) -> Floats32:
    """The matrix [H, H] that makes noise of power 1/f^beta of white noise, of variance 1 as before.

    Frequency 0 is given the power of the lowest above it. Source: Timmer and König, "On generating power law
    noise" (1995)."""
    frequencies = np.fft.rfftfreq(horizon)
    frequencies[0] = 1 / horizon
    spectrum = np.fft.rfft(np.eye(horizon), axis=0) * frequencies[:, None] ** (-beta / 2)
    matrix = np.fft.irfft(spectrum, n=horizon, axis=0)
    # The matrix is circulant: all its rows have one length, which is the noise's standard deviation.
    coloured: Floats32 = (matrix / np.linalg.norm(matrix[0])).astype(np.float32)
    return coloured
