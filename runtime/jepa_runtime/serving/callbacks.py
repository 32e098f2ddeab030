"""Who is told what a pipeline does; what one of them raises is reported, and stops nobody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from jepa_runtime.serving.types import Result
from jepa_runtime.sources.base import Frame

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of :class:`~jepa_runtime.serving.pipeline.Pipeline` about frames."""

    on_result: Callable[[Result], None]
    on_futures: Callable[[Result], None] | None
    on_calibration: Callable[[Result], None] | None
    on_error: Callable[[Exception, Frame | None], None] | None

    def deliver(self, callback: Callable[[Result], None] | None, result: Result, frame: Frame) -> bool:
        """Call ``callback``, one of these; False if it failed."""
        try:
            if callback is not None:
                callback(result)
        except Exception as error:
            self.report(error, frame)
            return False
        return True

    def report(self, error: Exception, frame: Frame | None) -> None:
        """Tell what went wrong, or log it where nobody wants to know."""
        about = "" if frame is None else f" (frame {frame.sequence}, stamp {frame.stamp_ns} ns)"
        if self.on_error is None:
            _LOG.error("%s%s", error, about, exc_info=error)
            return
        try:
            self.on_error(error, frame)
        except Exception:
            _LOG.exception("the error callback failed while reporting: %s%s", error, about)
