"""The interface of the gate to an update."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.release import Budgets, Release, Robot


class Gate(Protocol):
    """Decides whether a candidate may serve; each method raises ReleaseRejectedError if not."""

    def check_release(self, release: Release, robot: Robot) -> None:
        """Check what a release declares, before it is downloaded."""
        ...

    def check(self, bundle: Bundle, release: Release, robot: Robot) -> None:
        """Check what a bundle declares."""
        ...

    def probe(self, folder: Path, budgets: Budgets, active: Path | None) -> Mapping[str, Any]:
        """Run a bundle in a separate process, and return the measurements.

        Args:
            folder: The bundle.
            budgets: The limits of its release.
            active: The active bundle; None: there is none.

        Raises:
            MachineBusyError: The machine is too busy to compare the latency with its budget.
        """
        ...

    def shadow(
        self, current: Path, candidate: Path, max_error_ratio: float, *, comparisons: int
    ) -> Mapping[str, Any] | None:
        """Compare the predictions of a candidate with those of the active model.

        Args:
            current: The bundle of the active model.
            candidate: The bundle of the candidate.
            max_error_ratio: See :class:`~jepa_runtime.ota.release.Budgets`.
            comparisons: How often the candidate was compared before.

        Returns:
            The measurements; None: this robot has no source of frames.

        Raises:
            InconclusiveError: The test ended without a result after it was evaluated, which counts as a
                comparison.
        """
        ...
