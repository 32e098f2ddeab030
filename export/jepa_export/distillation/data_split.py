"""Clips to train on, and those held out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from jepa_export.data.action_statistics import outliers
from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording

_LOG = logging.getLogger(__name__)
_NAMED = 5


@dataclass(frozen=True)
class DataSplit:
    """Clips to train on, and those held out: the same where no recording is."""

    train: Windows
    held_out: Windows

    def __str__(self) -> str:
        held = "none" if self.held_out is self.train else str(self.held_out)
        return f"to train on: {self.train}; held out: {held}"

    @property
    def digest(self) -> str:
        """Changes with either."""
        return sha256(f"{self.train.digest} {self.held_out.digest}".encode()).hexdigest()[:16]

    def tell(self, progress: Callable[[str], None]) -> None:
        """Say what is learnt from and what is held out, and what is wrong with either."""
        progress(str(self))
        without = list(self.train.unused)
        if self.held_out is not self.train:
            progress(f"held out: {_listed(self.held_out.used)}")
            without += self.held_out.unused
        else:
            _LOG.warning(
                "nothing is held out: no loss shows whether it learns these clips by heart, and the bundle's "
                "error bounds are theirs"
            )
        if without:
            _LOG.warning(
                "%d recordings are too short for a clip, or it is not known long enough what was executed; "
                "the predictor learns nothing from them: %s",
                len(without),
                _listed(without),
            )
        for outlier in outliers(self.train)[:_NAMED]:
            _LOG.warning(
                "the action %s: look for another unit, or an error there; the bundle's limits of actions and "
                "the scale at which it sees them follow from the largest",
                outlier,
            )


def _listed(recordings: Sequence[Recording]) -> str:
    """The names of the first few."""
    more = f" and {len(recordings) - _NAMED} more" if len(recordings) > _NAMED else ""
    return ", ".join(recording.name for recording in recordings[:_NAMED]) + more
