"""What was foreseen from one image, as data: from a message, or from the pipeline itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.recording.messages import array_of, from_time
from jepa_runtime.serving.types import Result
from jepa_runtime.visualization.embedding import Floats, Latents


@dataclass(frozen=True)
class Predictions:
    """K futures of H steps, of one image.

    Attributes:
        stamp_ns: of the image.
        latents: [K, H, T, D].
        actions: [K, H, A].
        energies: [K, H] to the goal; None without one.
        bounds: [H], how far a prediction is expected to lie from what comes, at most.
        ahead_s: [H], when each step is, after the image.
        current_energy: of the image itself; NaN without a goal.
        predict_ms: what it took.
    """

    stamp_ns: int
    latents: Latents
    actions: Floats
    energies: Floats | None
    bounds: Floats
    ahead_s: NDArray[np.float64]
    current_energy: float
    predict_ms: float

    @classmethod
    def of_message(cls, message: Any) -> Predictions:
        """From a jepa_msgs/PredictedFutures of rclpy or rosbags.

        Raises:
            ValueError: an array in it is not whole.
        """
        return cls(
            stamp_ns=stamp_of(message),
            latents=array_of(message.latents),
            actions=array_of(message.actions),
            energies=array_of(message.energies) if message.has_goal else None,
            bounds=np.asarray(message.error_bounds, np.float32),
            ahead_s=np.asarray(message.horizon_s, np.float64),
            current_energy=float(message.current_energy),
            predict_ms=float(message.predict_ms),
        )

    @classmethod
    def of_result(cls, result: Result, step_s: float) -> Predictions | None:
        """From the pipeline; None where nothing was predicted."""
        futures = result.futures
        if futures is None:
            return None
        return cls(
            stamp_ns=result.stamp_ns,
            latents=futures.latents,
            actions=futures.actions,
            energies=futures.energies,
            bounds=futures.error_bounds,
            ahead_s=step_s * np.arange(1, futures.latents.shape[1] + 1),
            current_energy=float("nan") if result.current_energy is None else result.current_energy,
            predict_ms=result.timings_ms["predict"],
        )

    @property
    def ends(self) -> tuple[int, int] | None:
        """The best and the worst candidate, by the sum of their energies; None without a goal."""
        if self.energies is None or not self.energies.size:
            return None
        cost = self.energies.sum(axis=1)
        return int(cost.argmin()), int(cost.argmax())

    def columns(self, most: int = 8) -> list[int]:
        """Which of its steps are shown, from 0, at most so many."""
        steps = len(self.ahead_s)
        return sorted({round(step) for step in np.linspace(0, steps - 1, min(steps, most))})

    def alike(self, taken: Floats) -> tuple[int, float]:
        """The candidate whose actions are nearest to those ``taken`` [H, A], and their mean difference."""
        differences = np.abs(self.actions - taken).mean(axis=(1, 2))
        index = int(differences.argmin())
        return index, float(differences[index])


def check_finite(*arrays: NDArray[Any] | None) -> None:
    """Check what a model computed.

    Raises:
        ValueError: some of it is no number.
    """
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        raise ValueError("some numbers are not finite: there the model computed none")


def stamp_of(message: Any) -> int:
    """The stamp in a message's header [ns]."""
    return from_time(message.header.stamp)
