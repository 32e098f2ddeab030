"""The gate, as an update asks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.release import Budgets, Release, Robot


class Gate(Protocol):
    """Whether a candidate may serve; each of these raises ReleaseRejectedError if not."""

    def check_release(self, release: Release, robot: Robot) -> None:
        """What its release says, before it is fetched."""
        ...

    def check(self, bundle: Bundle, release: Release, robot: Robot) -> None:
        """What it says about itself."""
        ...

    def probe(self, folder: Path, budgets: Budgets, active: Path | None) -> Mapping[str, Any]:
        """What it does in a process of its own; what was measured.

        Args:
            active: the bundle that serves; None: none does.

        Raises:
            MachineBusyError: this machine is too busy to tell whether it meets its latency budget.
        """
        ...

    def shadow(
        self, current: Path, candidate: Path, max_error_ratio: float, *, comparisons: int
    ) -> Mapping[str, Any] | None:
        """How it predicts beside what serves; None: this robot has nothing to compare them on.

        Args:
            max_error_ratio: see :class:`~jepa_runtime.ota.release.Budgets`.
            comparisons: how often it was compared before.

        Raises:
            InconclusiveError: it might have passed by chance, and that counts as a comparison.
        """
        ...
