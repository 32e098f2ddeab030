"""The interface of an update to the serving process: swap the model, and read its health."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Health:
    """The health of the serving process.

    Attributes:
        serves: SHA-256 of the manifest of the active model; None: no serving process.
        failure: What is wrong: errors, NaN, late frames, a process that died; empty: nothing.
        absent: Why an expected serving process cannot be assessed; empty: no such reason.
        may_switch: Whether the robot allows a model switch now.
        idle: Whether too few frames were processed since the switch for an assessment.
    """

    serves: str | None = None
    failure: str = ""
    absent: str = ""
    may_switch: bool = True
    idle: bool = False


class Serving(Protocol):
    """The process that serves the model. Every call may be repeated, also by a new updating process."""

    def swap(self, folder: Path) -> None:
        """Serve the bundle in ``folder`` from now on.

        Raises:
            ReleaseRejectedError: It cannot be served.
            UpdateError: The swap failed; another attempt may succeed.
        """
        ...

    def health(self) -> Health:
        """Return the current health.

        Raises:
            UpdateError: The health cannot be determined now.
        """
        ...
