"""Callbacks of a pipeline. An error in one of them is reported and does not affect the others."""

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
        """Call one of these callbacks; return False if it failed."""
        try:
            if callback is not None:
                callback(result)
        except Exception as error:
            self.report(error, frame)
            return False
        return True

    def report(self, error: Exception, frame: Frame | None) -> None:
        """Pass an error to ``on_error``, or log it if there is no such callback."""
        about = "" if frame is None else f" (frame {frame.sequence}, stamp {frame.stamp_ns} ns)"
        if self.on_error is None:
            _LOG.error("%s%s", error, about, exc_info=error)
            return
        try:
            self.on_error(error, frame)
        except Exception:
            _LOG.exception("the error callback failed while reporting: %s%s", error, about)
