"""The predictions from one image, read from a message or from the pipeline."""

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
    """K predicted futures of H steps from one image.

    Attributes:
        stamp_ns: The stamp of the image.
        latents: [K, H, T, D].
        actions: [K, H, A].
        energies: [K, H], distances to the goal; None without a goal.
        bounds: [H], the error bounds.
        ahead_s: [H], the time of each step after the image.
        current_energy: The energy of the image itself; NaN without a goal.
        predict_ms: The duration of the prediction.
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
    def from_message(cls, message: Any) -> Predictions:
        """Convert a jepa_msgs/PredictedFutures of rclpy or rosbags.

        Raises:
            ValueError: An array is incomplete.
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
    def from_result(cls, result: Result, step_s: float) -> Predictions | None:
        """Convert a result of the pipeline; return None if it has no futures."""
        futures = result.futures
        if futures is None:
            return None
        return cls(
            stamp_ns=result.stamp_ns,
            latents=futures.latents,
            actions=futures.actions,
            energies=futures.energies,
            bounds=futures.error_bounds,
            ahead_s=result.compensated_ns / 1e9 + step_s * np.arange(1, futures.latents.shape[1] + 1),
            current_energy=float("nan") if result.current_energy is None else result.current_energy,
            predict_ms=result.timings_ms["predict"],
        )

    @property
    def best_and_worst(self) -> tuple[int, int] | None:
        """The candidates with the smallest and the largest sum of energies; None without a goal."""
        if self.energies is None or not self.energies.size:
            return None
        cost = self.energies.sum(axis=1)
        return int(cost.argmin()), int(cost.argmax())

    def columns(self, max_columns: int = 8) -> list[int]:
        """Return the indices of at most ``max_columns`` evenly spaced steps, to be shown as columns."""
        steps = len(self.ahead_s)
        return sorted({round(step) for step in np.linspace(0, steps - 1, min(steps, max_columns))})

    def nearest_to(self, actions: Floats) -> tuple[int, float]:
        """Return the candidate nearest to ``actions`` [H, A], and the mean absolute difference."""
        differences = np.abs(self.actions - actions).mean(axis=(1, 2))
        index = int(differences.argmin())
        return index, float(differences[index])


def check_finite(*arrays: NDArray[Any] | None) -> None:
    """Check that all numbers are finite.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        raise ValueError("some numbers are not finite: the model's output is invalid")


def stamp_of(message: Any) -> int:
    """Return the stamp of a message's header in ns."""
    return from_time(message.header.stamp)
