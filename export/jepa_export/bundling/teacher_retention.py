"""What a student kept of its teacher, as the report of its bundle tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from jepa_runtime.bundle import Bundle

_LOG = logging.getLogger(__name__)
_KEY = "of_teacher"


@dataclass(frozen=True)
class TeacherRetention:
    """Over ``clips`` clips, through the head that the student was trained with.

    Attributes:
        teacher: its name.
        clips: how many were compared.
        held_out: it was not trained on them.
        variance: the share of what varies from clip to clip in the teacher's tokens that the student tells
            (R²: 1 less the squared error over the squared distance from each token's mean); knowing nothing
            but those means would give 0. None: the clips do not differ.
        cosine: with the teacher's tokens, mean.
    """

    teacher: str
    clips: int
    held_out: bool
    variance: float | None
    cosine: float

    def tell(self, progress: Callable[[str], None]) -> None:
        """Say it in a line, and warn where nothing was kept."""
        share = "-" if self.variance is None else f"{self.variance:.0%}"
        progress(
            f"of what varies in the tokens of {self.teacher}, the student tells {share} (mean cosine "
            f"{self.cosine:.3f}), in {self.clips} clips {self.where}"
        )
        if self.variance is not None and self.variance <= 0:
            _LOG.warning(
                "the student tells no more of %s than the mean of its tokens: give it more recordings, train "
                "it longer (--steps), or choose a larger one (--student)",
                self.teacher,
            )

    @property
    def where(self) -> str:
        """Which clips they are."""
        return "held out" if self.held_out else "trained on"

    def as_report(self) -> dict[str, Any]:
        """For report.json."""
        return {_KEY: asdict(self)}


def kept_of_teacher(bundle: Bundle) -> TeacherRetention | None:
    """What the report of ``bundle`` tells of it; None where it tells nothing.

    Raises:
        BundleError: the report is no longer what it was.
    """
    report = bundle.report()
    found = report.get(_KEY) if isinstance(report, dict) else None
    try:
        return TeacherRetention(**found) if found else None
    except TypeError:
        return None
