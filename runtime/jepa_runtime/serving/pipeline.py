"""The real-time loop: newest-frame mailbox -> encode -> history -> predict -> result, on one inference
thread.

The thread opens, uses and closes the model; every other thread only puts frames, actions and goals and takes
results from the callback. A frame that fails is counted and reported, and the next one is served.

Several streams (cameras) share the thread and the model, and each has a place in the mailbox, a history and a
goal of its own. Their frames are interleaved, one inference each: a batch would have to wait for the last
camera's frame, would need graphs compiled for every number of cameras, and one camera that fails would hold
up the others. A frame waits for at most the one in work and one of every other stream.

Another model can take the place of the one that serves (:meth:`Pipeline.swap`), between two frames and
without losing one, and give it back (:meth:`Pipeline.rollback`): the one replaced stays open until
:meth:`Pipeline.commit`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.callbacks import Callbacks
from jepa_runtime.serving.evaluation import Evaluation, EvaluationQueue, EvaluationRequest
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.goals import Goal, Goals, is_image
from jepa_runtime.serving.inference_thread import InferenceThread
from jepa_runtime.serving.mailbox import Mailbox
from jepa_runtime.serving.types import STAGES, Candidates, Result, Stats, Tally, total
from jepa_runtime.sources.base import Frame

_MAX_WAITING_ACTIONS = 1024
_PATIENCE_S = 5.0
# Where frames are further apart, work beside them hardly meets one.
_GAP_S = 0.1

__all__ = ["STAGES", "Candidates", "Evaluation", "Pipeline", "Result", "Stats"]


class Pipeline:
    """Serves a model to whoever has frames.

    Args:
        open_model: called on the inference thread; what it returns is used and closed there.
        on_result: called on the inference thread with each :class:`Result`; whatever time it takes the next
            frame waits.
        on_futures: called there before it, with a result that has futures and as yet no surprise: for whoever
            must not wait until that is computed too.
        on_calibration: called after it, per step and when an alarm begins or ends, with the same result,
            judged: for those rollouts the next frame waits, not this result.
        deadline_ms: ``total`` above this counts as a miss; None: no deadline.
        on_error: called on the inference thread with what went wrong, and the frame if it was about one;
            logged if left out.
        candidates: called on the inference thread once per frame; None (or returning None): the fan.
        on_model: called when another model is about to serve, with it and whether the histories go on; no
            frame is served meanwhile.
        tolerance_s, max_gap_s: see :class:`~jepa_runtime.serving.history.History`; an eighth of a step and
        two steps.
        error_probability: that the error bounds of futures hold with.
        false_alarm_every_s: of each kind at most one false alarm in so many seconds of normal data.
        streams: names of the streams that frames belong to (:attr:`Frame.stream`).
        clock_ns: a monotonic clock for the stage clocks. Stamps of frames are never compared with it.

    Raises:
        ValueError: ``streams`` is empty, or names one twice; a probability or a time is out of range.
    """

    def __init__(
        self,
        open_model: Callable[[], WorldModel],
        *,
        on_result: Callable[[Result], None],
        on_futures: Callable[[Result], None] | None = None,
        on_calibration: Callable[[Result], None] | None = None,
        deadline_ms: float | None = None,
        on_error: Callable[[Exception, Frame | None], None] | None = None,
        candidates: Callable[[], Candidates | NDArray[np.float32] | None] | None = None,
        on_model: Callable[[WorldModel, bool], None] | None = None,
        tolerance_s: float | None = None,
        max_gap_s: float | None = None,
        error_probability: float = ProcessingConfig.error_probability,
        false_alarm_every_s: float = ProcessingConfig.false_alarm_every_s,
        streams: Sequence[str] = ("",),
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._listeners = Callbacks(on_result, on_futures, on_calibration, on_error)
        self._on_model = on_model
        self._terms = ProcessingConfig(
            streams=tuple(streams),
            candidates=candidates,
            deadline_ms=deadline_ms,
            tolerance_s=tolerance_s,
            max_gap_s=max_gap_s,
            error_probability=error_probability,
            false_alarm_every_s=false_alarm_every_s,
            clock_ns=clock_ns,
        )
        self._mailbox: Mailbox[tuple[Frame, int]] = Mailbox(streams)
        self._goals = Goals()
        # Appending to and popping from a bounded deque is atomic: the oldest actions give way.
        self._actions: deque[tuple[int, NDArray[np.floating]]] = deque(maxlen=_MAX_WAITING_ACTIONS)
        self._questions = EvaluationQueue(clock_ns)
        self._progress = Condition(Lock())
        self._tallies = {stream: Tally() for stream in streams}
        self._swapping = Lock()
        self._host = self._host_for(open_model, beside=False)
        self._standby: InferenceThread | None = None
        self._stopped = False

    @property
    def model(self) -> WorldModel:
        """The open model, to read what it is (manifest, engine, device); the inference thread alone runs it.

        Raises:
            JepaRuntimeError: the pipeline was not started.
        """
        return self._host.inference.model

    @property
    def alarms_disabled_reason(self) -> str:
        """Why the model that serves gives no alarms; empty: it does.

        Raises:
            JepaRuntimeError: the pipeline was not started.
        """
        return self._host.inference.alarms_disabled_reason

    def start(self) -> None:
        """Start the inference thread and wait until the model is open and has run once.

        Raises:
            JepaRuntimeError: the pipeline was started before, or has stopped.
            Exception: whatever opening the model or its first run raised.
        """
        if self._host.started:
            raise JepaRuntimeError("the pipeline was started before: make a new one")
        self._check_not_stopped()
        self._host.open()
        self._host.give_turn()

    def stop(self, timeout_s: float = _PATIENCE_S) -> None:
        """End the inference thread after the frame in work; the model is closed there, and no other serves
        after it. May be called again.

        Raises:
            JepaRuntimeError: the thread did not end in time (the model hangs); it is left behind as a daemon.
        """
        with self._swapping:
            self._stopped = True
            self._questions.refuse("the pipeline has stopped: its model is closed")
            self._host.close(timeout_s, beside=False)
            self._close_standby(timeout_s)

    def swap(self, open_model: Callable[[], WorldModel]) -> bool:
        """Open another model beside the one that serves, and let it serve from the next frame on.

        Its actions must be those of the model that serves. Where its latents mean the same too (the same
        encoder), the histories go on; else they start anew, with the actions known so far, and goals are
        encoded again.

        Returns:
            Whether the histories go on.

        Raises:
            BundleError: its actions are others.
            JepaRuntimeError: the model that serves is stuck, or the pipeline has stopped.
            Exception: whatever opening it or its first run raised. After any error the old model serves on.
        """
        with self._swapping:
            self._check_not_stopped()
            self._close_standby(_PATIENCE_S)
            host = self._host_for(open_model, beside=True)
            host.open()
            try:
                host.inference.check_compatible(self._host.inference)
                return self._hand_over(host)
            except BaseException:
                host.close(_PATIENCE_S, beside=True)
                raise

    def rollback(self) -> bool:
        """Let the model serve that did before the last :meth:`swap`; the other one stays open in turn.

        Returns:
            Whether the histories go on.

        Raises:
            JepaRuntimeError: there is none, the model that serves is stuck, or the pipeline has stopped.
        """
        with self._swapping:
            self._check_not_stopped()
            if self._standby is None:
                raise JepaRuntimeError(
                    "no model was replaced since the last commit: there is none to go back to"
                )
            return self._hand_over(self._standby)

    def commit(self) -> None:
        """Close the model that the last :meth:`swap` replaced, if any.

        Raises:
            JepaRuntimeError: it is stuck, and left behind.
        """
        with self._swapping:
            self._close_standby(_PATIENCE_S)

    def __enter__(self) -> Pipeline:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, frame: Frame) -> None:
        """Offer a frame; it replaces one of its stream that still waits. Returns at once. Do not change the
        image after.

        Raises:
            JepaRuntimeError: there is no such stream.
        """
        self._check(frame.stream)
        self._mailbox.put((frame, self._terms.clock_ns()), frame.stream)

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """``action`` [A] (SI units) is being executed from ``stamp_ns`` (the frames' clock) on: by the one
        robot that all streams see."""
        self._actions.append((stamp_ns, action))

    def set_goal(self, goal: Goal | None, stamp_ns: int = 0, stream: str = "") -> None:
        """Seek ``goal``: an image (uint8 [h, w, 3] RGB), which the inference thread encodes, or a latent
        (float32 [T, D]) of the model that serves; None: nothing.

        A goal is what one camera would see there, so it is the goal of one stream. A latent is dropped when a
        model takes over to which it means nothing.

        Raises:
            JepaRuntimeError: there is no such stream.
            ValueError: the latent has another shape, or is not finite.
        """
        self._check(stream)
        if goal is None or is_image(goal):
            self._goals.set(stream, goal, stamp_ns)
        else:
            self._goals.set_latent(stream, goal, stamp_ns, self.model)
        self._mailbox.wake()

    def evaluate(
        self, actions: NDArray[np.floating], *, timeout_s: float, stream: str = "", latents: bool = True
    ) -> Evaluation:
        """The futures of action sequences [K, H', A], of any K, from the newest image of ``stream``.

        Waits until the inference thread has predicted them, as far as frames leave it time.

        Args:
            timeout_s: how long to wait.
            latents: whether they are wanted too, beside the energies.

        Raises:
            ValueError: the actions are not such sequences, or their latents would be too large.
            JepaRuntimeError: there is no such stream, there is nothing to tell (no goal, and no latents
                wanted), too many ask, or it was not done in time.
        """
        self._check(stream)
        question = EvaluationRequest(self.model.manifest, actions, stream, latents=latents)
        self._questions.ask(question)
        self._mailbox.wake()
        return question.wait(timeout_s)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every frame submitted so far was processed, dropped or failed; False if that took too
        long.
        """
        with self._progress:
            return self._progress.wait_for(lambda: self._finished() >= self._mailbox.accepted(), timeout_s)

    def wait_gap(self) -> None:
        """Wait until the next frame was finished, for a tenth of a second at most: until the one after it is
        due, whoever works beside the pipeline is in nobody's way."""
        with self._progress:
            before = self._finished()
            self._progress.wait_for(lambda: self._finished() > before, _GAP_S)

    def stats(self, stream: str | None = None) -> Stats:
        """The counters now, of one stream or (None) of all together.

        Raises:
            JepaRuntimeError: there is no such stream.
        """
        if stream is not None:
            self._check(stream)
            received, dropped = self._mailbox.counts(stream)
            with self._progress:
                return self._tallies[stream].stats(received, dropped)
        return total(self.stats(each) for each in self._tallies)

    def _finished(self) -> int:
        return sum(tally.finished for tally in self._tallies.values())

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise JepaRuntimeError("the pipeline has stopped: make a new one")

    def _check(self, stream: str) -> None:
        if stream not in self._tallies:
            raise JepaRuntimeError(
                f"no stream {stream!r}: the pipeline has {', '.join(map(repr, self._tallies))}"
            )

    def _host_for(self, open_model: Callable[[], WorldModel], *, beside: bool) -> InferenceThread:
        between = self.wait_gap if beside else lambda: None

        def open_inference() -> FrameProcessor:
            between()
            model = open_model()
            try:
                between()
                return FrameProcessor(model, self._terms)
            except BaseException:
                model.close()
                raise

        return InferenceThread(open_inference, self._serve, self._mailbox.wake, beside=beside)

    def _hand_over(self, host: InferenceThread) -> bool:
        """Between two frames, let ``host`` serve."""
        self._host.take_turn(_PATIENCE_S)
        try:
            kept = host.inference.shares_latent_space(self._host.inference)
            if self._on_model is not None:
                self._on_model(host.inference.model, kept)
            # From here on nothing may fail: what the other one remembers is shared.
            host.inference.adopt_state(self._host.inference)
            if not kept:
                self._goals.set_again()
        except BaseException:
            self._host.give_turn()
            raise
        self._host, self._standby = host, self._host
        host.give_turn()
        return kept

    def _close_standby(self, timeout_s: float) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            self.wait_gap()
            standby.close(timeout_s, beside=True)

    def _serve(self, inference: FrameProcessor) -> None:
        taken = self._mailbox.take(self._questions.patience_s())
        self._take_goals(inference)
        self._take_actions(inference)
        if taken is None:
            self._questions.answer(inference)
            return
        stream, (frame, submitted_ns) = taken
        self._questions.frame_came(stream, submitted_ns)
        tally, listeners, delivered = self._tallies[stream], self._listeners, True
        try:
            result = inference.process(frame, submitted_ns)
            if result.futures is not None:
                delivered = listeners.deliver(listeners.on_futures, result, frame)
            result = inference.with_surprise(result)
            delivered = listeners.deliver(listeners.on_result, result, frame) and delivered
            judged = inference.update_calibration(result)
            if judged is not None:
                delivered = listeners.deliver(listeners.on_calibration, judged, frame) and delivered
        except Exception as error:
            with self._progress:
                tally.failed += 1
                self._progress.notify_all()
            listeners.report(error, frame)
            return
        # Only now: who waits for an idle pipeline wants all of it delivered too.
        with self._progress:
            tally.add(result, delivered=delivered)
            self._progress.notify_all()

    def _take_goals(self, inference: FrameProcessor) -> None:
        for stream, goal, stamp_ns in self._goals.take(inference.model.latent_space):
            try:
                inference.set_goal(stream, goal, stamp_ns)
            except Exception as error:
                self._listeners.report(error, None)

    def _take_actions(self, inference: FrameProcessor) -> None:
        while self._actions:
            stamp_ns, action = self._actions.popleft()
            try:
                inference.add_action(stamp_ns, action)
            except ValueError as error:
                self._listeners.report(error, None)
