"""How well a student reproduces its teacher, as recorded in the report of its bundle."""

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
    """Agreement of student and teacher over ``clips`` clips, through the head that the student trained with.

    Attributes:
        teacher: Name of the teacher.
        clips: Number of clips compared.
        held_out: Whether the student was not trained on them.
        variance: R² of the teacher's tokens: 1 minus the squared error divided by the squared distance from
            each token's mean. Predicting the means gives 0. None: the clips do not differ.
        cosine: Mean cosine with the teacher's tokens.
    """

    teacher: str
    clips: int
    held_out: bool
    variance: float | None
    cosine: float

    def report(self, progress: Callable[[str], None]) -> None:
        """Report it in one line, and warn if the student explains none of the variance."""
        proportion = "-" if self.variance is None else f"{self.variance:.0%}"
        progress(
            f"explained variance of the tokens of {self.teacher}: {proportion} (mean cosine "
            f"{self.cosine:.3f}) on {self.clips} clips, {self.clip_set}"
        )
        if self.variance is not None and self.variance <= 0:
            _LOG.warning(
                "the student explains no more of %s than the mean of its tokens: add recordings, train "
                "longer (--steps), or choose a larger student (--student)",
                self.teacher,
            )

    @property
    def clip_set(self) -> str:
        """Whether the clips were held out, in words."""
        return "held out" if self.held_out else "trained on"

    def as_report(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        return {_KEY: asdict(self)}


def read_teacher_retention(bundle: Bundle) -> TeacherRetention | None:
    """Return what the report of ``bundle`` records; None if it records nothing.

    Raises:
        BundleError: The report is no longer what the manifest records.
    """
    report = bundle.report()
    found = report.get(_KEY) if isinstance(report, dict) else None
    try:
        return TeacherRetention(**found) if found else None
    except TypeError:
        return None
