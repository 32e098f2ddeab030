"""The split of clips into training and held-out clips."""

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
    """Training clips and held-out clips; both are the same if nothing is held out."""

    train: Windows
    held_out: Windows

    def __str__(self) -> str:
        held = "none" if self.held_out is self.train else str(self.held_out)
        return f"to train on: {self.train}; held out: {held}"

    @property
    def digest(self) -> str:
        """Return a hash of both sides."""
        return sha256(f"{self.train.digest} {self.held_out.digest}".encode()).hexdigest()[:16]

    def report(self, progress: Callable[[str], None]) -> None:
        """Report the clips of both sides, and warn about problems in them."""
        progress(str(self))
        unused = list(self.train.unused)
        if self.held_out is not self.train:
            progress(f"held out: {_first_names(self.held_out.used)}")
            unused += self.held_out.unused
        else:
            _LOG.warning(
                "nothing is held out: overfitting will not show in any loss, and the error bounds of the "
                "bundle "
                "come from training clips"
            )
        if unused:
            _LOG.warning(
                "%d recordings are not used by the predictor, as they are shorter than a clip or their "
                "actions "
                "are not known for that long: %s",
                len(unused),
                _first_names(unused),
            )
        for outlier in outliers(self.train)[:_NAMED]:
            _LOG.warning(
                "action %s: check its unit and its values; the largest one determines the action limits of "
                "the "
                "bundle and the scale of its actions",
                outlier,
            )


def _first_names(recordings: Sequence[Recording]) -> str:
    """Return the names of the first few recordings."""
    more = f" and {len(recordings) - _NAMED} more" if len(recordings) > _NAMED else ""
    return ", ".join(recording.name for recording in recordings[:_NAMED]) + more
