"""What an update needs of the serving process: to swap the model, and to report how it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Health:
    """How serving goes.

    Attributes:
        serves: the SHA-256 of the manifest of what serves; None: nobody is there to ask.
        failure: what is wrong: errors, NaN, frames that come too late, a process that died; empty: nothing.
        absent: why the serving process cannot be judged, though it should be there; empty: no such reason.
        may_switch: whether the robot can take another model at this moment.
        idle: whether it has had too little to do since the switch to be judged.
    """

    serves: str | None = None
    failure: str = ""
    absent: str = ""
    may_switch: bool = True
    idle: bool = False


class Serving(Protocol):
    """The process that serves the model. Every call may be made again, also after the process of the update
    ended."""

    def swap(self, folder: Path) -> None:
        """Serve the bundle in ``folder`` from now on.

        Raises:
            ReleaseRejectedError: it cannot be served.
            UpdateError: it is not served now; another attempt may succeed.
        """
        ...

    def health(self) -> Health:
        """How it goes.

        Raises:
            UpdateError: that cannot be told now.
        """
        ...
