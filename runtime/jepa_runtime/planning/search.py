"""Base of searches over action sequences, with an ask/tell interface: the caller predicts the futures.

Candidates are drawn from a diagonal Gaussian over the actions of every step, which is refitted to their
costs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits, Floats32


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of every search. Standard deviations are fractions of half the action range.

    Attributes:
        num_samples: K, candidates per iteration.
        horizon: H.
        topk: Number of candidates of lowest cost (elites) that count.
        init_std: Standard deviation of the first iteration.
        min_std: Minimum standard deviation of later iterations.
        constant_fraction: Proportion of candidates that hold one action over the whole horizon, drawn around
            the smallest allowed action. They find a path around a wall, which independent steps average out.
        noise_beta: The noise power falls with frequency as 1/f^beta along the horizon; 0 is white. With
            higher values, candidates go further in one direction (iCEM, Pinneri et al. 2020).
        keep_elites: Number of the last elites that are candidates again (iCEM).
        warm_start: The next plan starts from the shifted one with half the spread; otherwise from zero with
            the full spread. The name is that of stable-worldmodel.
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
                f"keep_elites must be between 0 and topk ({self.topk}) and below num_samples, got "
                f"{self.keep_elites}"
            )

    def fitted(self: Config, *, horizon: int, num_samples: int | None = None) -> Config:
        """Return the settings reduced to what a model predicts; see :meth:`ControllerConfig.fitted`."""
        samples = self.num_samples if num_samples is None else min(self.num_samples, num_samples)
        return replace(
            self,
            num_samples=samples,
            topk=min(self.topk, samples),
            keep_elites=min(self.keep_elites, samples - 1),
            horizon=min(self.horizon, horizon),
        )


@dataclass(frozen=True, kw_only=True)
class LatentFutures:
    """The predicted futures of one image as latents.

    Attributes:
        latents: Predicted latents [K, H, T, D] of the candidates.
        current: Latent [T, D] from which they start.
        goal: Latent [T, D] of the goal.
    """

    latents: Floats32
    current: Floats32
    goal: Floats32


class SearchInputs:
    """What a planner passes to a search in addition to costs. A search overrides what it uses."""

    def set_goal_pose(self, pose: RelativePose | None) -> None:
        """Note the pose of the goal at the next command; None: it is unknown."""

    def pose_ratio(self, pose: RelativePose | None) -> float:
        """Return how far away the goal is, as a multiple of the tolerance; 0: its energy alone decides."""
        del pose
        return 0.0

    def set_proposals(self, proposals: Floats32 | None) -> None:
        """Note action sequences [n, h, A] that a policy proposes for the newest image; None: no policy."""

    def energies(self, energies: Floats32, futures: LatentFutures | None) -> Floats32:
        """Return the energies [K, H] by which the candidates are compared.

        Args:
            energies: Energies [K, H] to the goal.
            futures: The predicted latents; None: the caller has none.
        """
        del futures
        return energies


Config = TypeVar("Config", bound=SearchConfig)


class Search(SearchInputs, ABC, Generic[Config]):
    """Searches for the action sequence of lowest cost.

    ``ask`` returns candidates [K, H, A], ``tell`` takes their costs [K], and ``mean`` [H, A] is the plan. The
    first candidate is always the plan itself, so that a good plan is not lost by chance. All random numbers
    come from one generator: the same seed and costs give the same plan.

    Attributes:
        mean: The plan, within the limits.
        executed: Last executed action [A], from which ``limits.max_change`` counts; updated by ``shift``. Set
            it if the robot executed another one. None: unknown.
    """

    def __init__(self, config: Config, limits: ActionLimits, *, seed: int) -> None:
        self.config = config
        self.limits = limits
        self.executed: Floats32 | None = None
        self._rng = np.random.default_rng(seed)
        self._scale: Floats32 = ((limits.high - limits.low) / 2).astype(np.float32)
        self._noise_matrix = noise_matrix(config.horizon, config.noise_beta) if config.noise_beta else None
        self.reset()

    def reset(self) -> None:
        """Discard the plan: zero mean, full spread."""
        size = (self.config.horizon, len(self.limits.low))
        self.mean: Floats32 = self.limits.clip(np.zeros(size, np.float32), self.executed)
        self._std = np.full(size, self.config.init_std, np.float32) * self._scale
        self._elites: Floats32 = np.empty((0, *size), np.float32)
        self._candidates: Floats32 | None = None

    def ask(self) -> Floats32:
        """Return candidates float32 [K, H, A] within the limits."""
        count, (steps, width) = self.config.num_samples, self.mean.shape
        noise = self._rng.standard_normal((count, steps, width), dtype=np.float32)
        if self._noise_matrix is not None:
            noise = np.matmul(self._noise_matrix, noise)
        constant = round(count * self.config.constant_fraction)
        samples: Floats32 = self.mean + noise * self._std
        constants = noise[count - constant :, :1] * self.config.init_std * self._scale
        samples[count - constant :] = self.limits.clip(np.zeros((1, width), np.float32)) + constants
        samples[0] = self.mean
        samples[1 : 1 + len(self._elites)] = self._elites
        self._candidates = self.limits.clip(samples, self.executed)
        return self._candidates

    def tell(self, costs: NDArray[np.floating]) -> None:
        """Refit to the costs [K] of the last candidates.

        Candidates without a finite cost are no elites; if no cost is finite, the plan does not change.

        Raises:
            ValueError: The number of costs is wrong, or there are no candidates.
        """
        candidates = self._answered(costs)
        order = np.argsort(costs, kind="stable")
        order = order[np.isfinite(costs[order])][: self.config.topk]
        elites = candidates[order]
        if len(elites):
            self._refit(elites, costs[order])
        # The mean of allowed elites is allowed, except for rounding and momentum.
        self.mean = self.limits.clip(self.mean, self.executed)
        self._elites = elites[: self.config.keep_elites]

    def directions(self, speed: float) -> Floats32:
        """Return constant actions [K, H, A] in random directions, and discard the plan.

        Args:
            speed: Size of the actions, as a proportion of the box.
        """
        self.reset()
        shape = self.config.num_samples, self.config.horizon
        return constant_directions(self._rng, self.limits, shape, speed, self.executed)

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        """Advance the plan by ``steps``: drop those actions, hold the last one, and widen the search.

        Without ``warm_start`` the plan is discarded instead.

        Args:
            steps: Number of steps.
            executed: Last executed action [A]; None: as planned.
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
        self._elites = _shifted(self._elites, steps)
        self._std = np.full(self.mean.shape, self.config.init_std / 2, np.float32) * self._scale
        self._candidates = None

    @abstractmethod
    def _refit(self, elites: Floats32, costs: NDArray[np.floating]) -> None:
        """Fit mean and spread to ``elites`` [n, H, A] (1 to topk) with ``costs`` [n], lowest first."""

    def _answered(self, costs: NDArray[np.floating]) -> Floats32:
        """Return the candidates of the last ``ask``, which ``costs`` answer; they are answered once."""
        if self._candidates is None or costs.shape != (self.config.num_samples,):
            raise ValueError(
                f"tell needs one cost for each of the {self.config.num_samples} candidates of the last "
                f"ask, got {costs.shape}"
            )
        candidates, self._candidates = self._candidates, None
        return candidates

    def _floor(self, std: Floats32) -> Floats32:
        floored: Floats32 = np.maximum(std, self.config.min_std * self._scale).astype(np.float32)
        return floored


def constant_directions(
    rng: np.random.Generator,
    limits: ActionLimits,
    shape: tuple[int, int],
    speed: float,
    executed: Floats32 | None,
) -> Floats32:
    """Return constant actions [K, H, A] in random directions, within the limits.

    Args:
        rng: Draws the directions.
        limits: Limits of the actions.
        shape: K and H.
        speed: Size of the actions, as a proportion of the box.
        executed: Last executed action [A]; None: unknown.
    """
    count, steps = shape
    scale = ((limits.high - limits.low) / 2).astype(np.float32)
    vectors = rng.standard_normal((count, 1, len(scale)), dtype=np.float32)
    vectors /= np.maximum(np.abs(vectors).max(axis=-1, keepdims=True), np.float32(1e-9))
    return limits.clip(np.repeat(vectors * scale * np.float32(speed), steps, axis=1), executed)


def _shifted(actions: Floats32, steps: int) -> Floats32:
    """Return ``actions`` [..., H, A] without the first ``steps``; the last action is held instead."""
    tail = np.repeat(actions[..., -1:, :], steps, axis=-2)
    following: Floats32 = np.concatenate([actions[..., steps:, :], tail], axis=-2)
    return following


def noise_matrix(horizon: int, beta: float) -> Floats32:
    """Return the matrix [H, H] that turns white noise into noise of power 1/f^beta and variance 1.

    Frequency 0 has the power of the lowest frequency above it. Source: Timmer and König, "On generating power
    law noise" (1995).
    """
    frequencies = np.fft.rfftfreq(horizon)
    frequencies[0] = 1 / horizon
    spectrum = np.fft.rfft(np.eye(horizon), axis=0) * frequencies[:, None] ** (-beta / 2)
    matrix = np.fft.irfft(spectrum, n=horizon, axis=0)
    # The matrix is circulant: all rows have the same length, the standard deviation of the noise.
    normalized: Floats32 = (matrix / np.linalg.norm(matrix[0])).astype(np.float32)
    return normalized
