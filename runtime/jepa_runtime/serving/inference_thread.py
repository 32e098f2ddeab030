"""The thread that owns a model: it opens, uses and closes it.

Several threads may have a model open, each its own. The active one serves, the others wait. So another model
can be opened and warmed up while one serves, and replace it between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from threading import Condition, Thread

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving import realtime
from jepa_runtime.serving.frame_processor import FrameProcessor


class InferenceThread:
    """The thread of one model. It serves while it is active.

    Args:
        open_processor: Called on the thread.
        serve: Called there repeatedly while the thread is active.
        wake: Makes a waiting ``serve`` return.
        in_background: Another thread serves meanwhile, and opening yields to it.
    """

    def __init__(
        self,
        open_processor: Callable[[], FrameProcessor],
        serve: Callable[[FrameProcessor], None],
        wake: Callable[[], None],
        *,
        in_background: bool,
    ) -> None:
        self._open_processor = open_processor
        self._serve = serve
        self._wake = wake
        self._in_background = in_background
        self._processor: FrameProcessor | None = None
        self._error: Exception | None = None
        self._changed = Condition()
        self._is_opening, self._is_active, self._is_serving, self._is_ending = True, False, False, False
        self._thread = Thread(target=self._run, name="jepa-inference", daemon=True)

    @property
    def started(self) -> bool:
        """Whether it was ever opened."""
        return self._thread.ident is not None

    @property
    def processor(self) -> FrameProcessor:
        """The frame processor with the open model.

        Raises:
            JepaRuntimeError: The model is not open.
        """
        if self._processor is None:
            raise JepaRuntimeError(
                "the pipeline has no model: call start() first", code="pipeline.not_started"
            )
        return self._processor

    def open(self) -> None:
        """Start the thread and wait until the model is open and has run once.

        Raises:
            Exception: Any error of that.
        """
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_opening)
        if self._error is not None:
            self._thread.join()
            raise self._error

    def activate(self) -> None:
        """Let it serve."""
        with self._changed:
            self._is_active = True
            self._changed.notify_all()

    def deactivate(self, timeout_s: float) -> None:
        """Stop serving after the frame in progress.

        Raises:
            JepaRuntimeError: That frame does not end in time; the thread stays active.
        """
        with self._changed:
            self._is_active = False
            self._wake()
            if not self._changed.wait_for(lambda: not self._is_serving, timeout_s):
                self._is_active = True
                raise JepaRuntimeError(
                    f"the inference thread did not stop within {timeout_s:g} s: a frame or a callback hangs",
                    code="pipeline.thread_hangs",
                )

    def close(self, timeout_s: float, *, in_background: bool) -> None:
        """Close the model on its thread after the frame in progress, and end the thread.

        Args:
            timeout_s: Maximum wait.
            in_background: Another thread serves meanwhile, and closing yields to it.

        Raises:
            JepaRuntimeError: The thread does not end in time (the model hangs); it is left behind as a
                daemon.
        """
        with self._changed:
            self._is_ending, self._in_background = True, in_background
            self._changed.notify_all()
        if not self.started:
            return
        self._wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise JepaRuntimeError(
                f"the inference thread did not end within {timeout_s:g} s: a frame or a callback hangs",
                code="pipeline.thread_hangs",
            )

    def _run(self) -> None:
        try:
            with realtime.in_background() if self._in_background else nullcontext():
                processor = self._open_processor()
            if not self._in_background:
                # In the background it would delay the active model: collapsing pages during each swap raised
                # the p99 of its frames from 1.3 to 1.9 times that of others.
                realtime.collapse_huge_pages()
        except Exception as error:
            self._error = error
        else:
            self._processor = processor
        with self._changed:
            self._is_opening = False
            self._changed.notify_all()
        if self._error is None:
            try:
                while self._wait_until_active():
                    self._serve(processor)
            finally:
                with realtime.in_background() if self._in_background else nullcontext():
                    processor.close()

    def _wait_until_active(self) -> bool:
        """Return True when it is to serve, False when it is to end."""
        with self._changed:
            self._is_serving = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_active or self._is_ending)
            self._is_serving = not self._is_ending
            return self._is_serving
