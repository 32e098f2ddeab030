"""The thread to which a model belongs: it opens, uses and closes the model.

Several threads may have a model open, each its own; the one that has the turn serves, the others wait. So
another model can be opened and warmed while one serves, and take its place between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from threading import Condition, Thread

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving import realtime
from jepa_runtime.serving.frame_processor import FrameProcessor


class InferenceThread:
    """The thread of one model. It serves while it has the turn.

    Args:
        open_inference: called on the thread.
        serve: called there again and again while it has the turn.
        wake: makes a waiting ``serve`` return.
        beside: another serves meanwhile, and opening makes way for it.
    """

    def __init__(
        self,
        open_inference: Callable[[], FrameProcessor],
        serve: Callable[[FrameProcessor], None],
        wake: Callable[[], None],
        *,
        beside: bool,
    ) -> None:
        self._open_inference = open_inference
        self._serve = serve
        self._wake = wake
        self._beside = beside
        self._inference: FrameProcessor | None = None
        self._error: Exception | None = None
        self._changed = Condition()
        self._opening, self._turn, self._serving, self._ending = True, False, False, False
        self._thread = Thread(target=self._run, name="jepa-inference", daemon=True)

    @property
    def started(self) -> bool:
        """Whether it was ever opened."""
        return self._thread.ident is not None

    @property
    def inference(self) -> FrameProcessor:
        """The open model.

        Raises:
            JepaRuntimeError: it is not open.
        """
        if self._inference is None:
            raise JepaRuntimeError("the pipeline has no model: call start() first")
        return self._inference

    def open(self) -> None:
        """Start the thread and wait until the model is open and has run.

        Raises:
            Exception: whatever that raised.
        """
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: not self._opening)
        if self._error is not None:
            self._thread.join()
            raise self._error

    def give_turn(self) -> None:
        """Let it serve."""
        with self._changed:
            self._turn = True
            self._changed.notify_all()

    def take_turn(self, timeout_s: float) -> None:
        """Let it serve no more, and wait for the end of the frame in work.

        Raises:
            JepaRuntimeError: that does not end in time; it keeps its turn.
        """
        with self._changed:
            self._turn = False
            self._wake()
            if not self._changed.wait_for(lambda: not self._serving, timeout_s):
                self._turn = True
                raise JepaRuntimeError(
                    f"the inference thread did not stop within {timeout_s:g} s: a frame or a callback is"
                    " stuck"
                )

    def close(self, timeout_s: float, *, beside: bool) -> None:
        """Close the model on its thread, after the frame in work, and end that.

        Args:
            timeout_s: how long to wait for it.
            beside: another serves meanwhile, and closing makes way for it.

        Raises:
            JepaRuntimeError: it does not end in time (the model hangs); it is left behind as a daemon.
        """
        with self._changed:
            self._ending, self._beside = True, beside
            self._changed.notify_all()
        if not self.started:
            return
        self._wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise JepaRuntimeError(
                f"the inference thread did not end within {timeout_s:g} s: a frame or a callback is stuck"
            )

    def _run(self) -> None:
        try:
            with realtime.aside() if self._beside else nullcontext():
                inference = self._open_inference()
            if not self._beside:
                # While another serves it would wait for its pages: joining them in each exchange took the
                # p99 of the frames in it from 1.3 to 1.9 times that of others.
                realtime.join_pages()
        except Exception as error:
            self._error = error
        else:
            self._inference = inference
        with self._changed:
            self._opening = False
            self._changed.notify_all()
        if self._error is None:
            try:
                while self._wait_for_turn():
                    self._serve(inference)
            finally:
                with realtime.aside() if self._beside else nullcontext():
                    inference.close()

    def _wait_for_turn(self) -> bool:
        """True when it is to serve, False when it is to end."""
        with self._changed:
            self._serving = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn or self._ending)
            self._serving = not self._ending
            return self._serving
