"""The real-time loop on one inference thread: mailbox, encode, history, predict, result.

The thread opens, uses and closes the model. Other threads submit frames, actions and goals, and receive
results from callbacks. A frame that fails is counted and reported, and the next one is processed.

Several streams (cameras) share the thread and the model; each has its own mailbox slot, history and goal.
Their frames are interleaved, one inference each: a batch would have to wait for the last camera's frame,
would need graphs compiled for every number of cameras, and a failing camera would delay the others. A frame
waits for at most the one in progress and one of every other stream.

Another model can replace the active one (:meth:`Pipeline.swap`) between two frames, without losing any, and
be rolled back (:meth:`Pipeline.rollback`): the replaced model stays open until :meth:`Pipeline.commit`.

Of a model that reads clips, :meth:`Pipeline.submit` passes on only the frames that complete a step, each with
its clip; the others are counted as skipped and cost nothing. Of a model with a causal encoder, the steps
before the first complete clip are encoded as well, without a result.
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
from jepa_runtime.serving.clip_sampler import Clip, ClipSampler
from jepa_runtime.serving.evaluation import (
    Evaluation,
    EvaluationQueue,
    EvaluationRequest,
    ScoreRequest,
    Scores,
)
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.goals import Goal, Goals, is_image
from jepa_runtime.serving.inference_thread import InferenceThread
from jepa_runtime.serving.mailbox import Mailbox
from jepa_runtime.serving.types import STAGES, Candidates, Result, Stats, StreamCounters, sum_stats
from jepa_runtime.sources.base import Frame

_MAX_WAITING_ACTIONS = _MAX_WAITING_STATES = 1024
_TIMEOUT_S = 5.0
# With frames further apart, background work hardly delays one.
_GAP_S = 0.1

__all__ = ["STAGES", "Candidates", "Evaluation", "Pipeline", "Result", "Stats"]


class Pipeline:
    """Serves a model to any number of threads.

    Callbacks run on the inference thread; the next frame waits for them.

    Args:
        open_model: Returns the model; called on the inference thread, where the model is used and closed.
        on_result: Called with each :class:`Result`.
        on_futures: Called before that with a result that has futures but no surprise yet, for consumers that
            need the lowest latency.
        on_calibration: Called after that, once per step and when an alarm begins or ends, with the same
            result and its error sample.
        deadline_ms: A ``total`` above this counts as a miss; None: no deadline.
        on_error: Called with an error, and the frame if it concerns one; None: errors are logged.
        candidates: Called once per frame for the candidates to evaluate; None, or returning None: the default
            candidates.
        on_model: Called when another model is about to become active, with the model and whether the
            histories continue; no frame is processed meanwhile.
        tolerance_s: See :class:`~jepa_runtime.serving.history.History`; None: an eighth of a step.
        max_gap_s: See :class:`~jepa_runtime.serving.history.History`; None: two steps.
        error_probability: Target coverage of the error bounds.
        false_alarm_every_s: Mean time between false alarms of each kind on normal data, at least.
        actuation_delay_s: Time from the stamp of an action to its effect on the robot.
        streams: Names of the streams (:attr:`Frame.stream`).
        clock_ns: Monotonic clock of the stage timings. Stamps of frames are never compared with it.

    Raises:
        ValueError: ``streams`` is empty or has duplicates, or a probability or a time is out of range.
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
        actuation_delay_s: float = 0.0,
        streams: Sequence[str] = ("",),
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._callbacks = Callbacks(on_result, on_futures, on_calibration, on_error)
        self._on_model = on_model
        self._config = ProcessingConfig(
            streams=tuple(streams),
            candidates=candidates,
            deadline_ms=deadline_ms,
            tolerance_s=tolerance_s,
            max_gap_s=max_gap_s,
            error_probability=error_probability,
            false_alarm_every_s=false_alarm_every_s,
            actuation_delay_s=actuation_delay_s,
            clock_ns=clock_ns,
        )
        self._mailbox: Mailbox[tuple[Frame, int, Clip | None]] = Mailbox(streams)
        # Of a model that reads clips; a swap never changes them.
        self._samplers: dict[str, ClipSampler] = {}
        self._sampling = Lock()
        self._skipped = dict.fromkeys(streams, 0)
        self._goals = Goals()
        # Appending to and popping from a bounded deque is atomic; the oldest entries are dropped.
        self._actions: deque[tuple[int, NDArray[np.floating]]] = deque(maxlen=_MAX_WAITING_ACTIONS)
        self._states: deque[tuple[int, NDArray[np.floating]]] = deque(maxlen=_MAX_WAITING_STATES)
        self._evaluations = EvaluationQueue(clock_ns)
        self._progress = Condition(Lock())
        self._counters = {stream: StreamCounters() for stream in streams}
        self._swapping = Lock()
        self._thread = self._create_thread(open_model, in_background=False)
        self._standby: InferenceThread | None = None
        self._stopped = False

    @property
    def model(self) -> WorldModel:
        """The open model, to read its properties; only the inference thread runs it.

        Raises:
            JepaRuntimeError: The pipeline was not started.
        """
        return self._thread.processor.model

    @property
    def alarms_disabled_reason(self) -> str:
        """Reason why the active model raises no alarms; empty: it does.

        Raises:
            JepaRuntimeError: The pipeline was not started.
        """
        return self._thread.processor.alarms_disabled_reason

    def start(self) -> None:
        """Start the inference thread and wait until the model is open and has run once.

        Raises:
            JepaRuntimeError: The pipeline was started before, or has stopped.
            Exception: Any error of opening the model or of its first run.
        """
        if self._thread.started:
            raise JepaRuntimeError(
                "the pipeline was already started: create a new one", code="pipeline.already_started"
            )
        self._check_not_stopped()
        self._thread.open()
        manifest = self.model.manifest
        if manifest.io.clip is not None:
            self._samplers = {stream: ClipSampler(manifest) for stream in self._counters}
        self._thread.activate()

    def stop(self, timeout_s: float = _TIMEOUT_S) -> None:
        """End the inference thread after the frame in progress and close the model. May be called again.

        Raises:
            JepaRuntimeError: The thread did not end in time (the model hangs); it is left behind as a daemon.
        """
        with self._swapping:
            self._stopped = True
            self._evaluations.close("the pipeline has stopped: its model is closed")
            self._thread.close(timeout_s, in_background=False)
            self._close_standby(timeout_s)

    def swap(self, open_model: Callable[[], WorldModel]) -> bool:
        """Open another model in the background and make it active from the next frame on.

        Its actions must be those of the active model. With the same latent space (the same encoder) the
        histories continue; otherwise they are reset, except for the actions, and goals are encoded again.

        Returns:
            Whether the histories continue.

        Raises:
            BundleError: Its actions differ.
            JepaRuntimeError: The active model hangs, or the pipeline has stopped.
            Exception: Any error of opening the model or of its first run. After an error the old model stays
                active.
        """
        with self._swapping:
            self._check_not_stopped()
            self._close_standby(_TIMEOUT_S)
            thread = self._create_thread(open_model, in_background=True)
            thread.open()
            try:
                thread.processor.check_compatible(self._thread.processor)
                return self._switch_to(thread)
            except BaseException:
                thread.close(_TIMEOUT_S, in_background=True)
                raise

    def rollback(self) -> bool:
        """Make the model active that the last :meth:`swap` replaced; the other one stays open.

        Returns:
            Whether the histories continue.

        Raises:
            JepaRuntimeError: There is none, the active model hangs, or the pipeline has stopped.
        """
        with self._swapping:
            self._check_not_stopped()
            if self._standby is None:
                raise JepaRuntimeError(
                    "no model to roll back to: none was replaced since the last commit",
                    code="pipeline.no_rollback",
                )
            return self._switch_to(self._standby)

    def commit(self) -> None:
        """Close the model that the last :meth:`swap` replaced, if any.

        Raises:
            JepaRuntimeError: It hangs and is left behind.
        """
        with self._swapping:
            self._close_standby(_TIMEOUT_S)

    def __enter__(self) -> Pipeline:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, frame: Frame) -> None:
        """Submit a frame without waiting; it replaces a waiting one of its stream.

        Do not change the image afterwards. Of a model that reads clips, a frame that does not complete a step
        has no result.

        Raises:
            JepaRuntimeError: There is no such stream.
        """
        self._check(frame.stream)
        clip = None
        if self._samplers:
            with self._sampling:
                clip = self._samplers[frame.stream].add(frame)
                self._skipped[frame.stream] += clip is None
            if clip is None:
                return
        self._mailbox.put((frame, self._config.clock_ns(), clip), frame.stream)

    def clip_obstacle(self, stream: str = "") -> str:
        """Return why the newest frames of ``stream`` form no clip; empty: they do, or the model reads none.

        Raises:
            JepaRuntimeError: There is no such stream.
        """
        self._check(stream)
        with self._sampling:
            return self._samplers[stream].obstacle if self._samplers else ""

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """Add ``action`` [A] in SI units, sent to the robot at ``stamp_ns`` (the frames' clock).

        The robot executes it until the next one. All streams see the same robot.
        """
        self._actions.append((stamp_ns, action))

    def add_state(self, stamp_ns: int, state: NDArray[np.floating]) -> None:
        """Add the ``state`` [S] of the robot at ``stamp_ns`` (the frames' clock), if the model reads it.

        Add it before the frame that it belongs to: a frame without a state near its stamp has no futures.
        """
        self._states.append((stamp_ns, state))

    def set_goal(self, goal: Goal | None, stamp_ns: int = 0, stream: str = "") -> None:
        """Set the goal of a stream.

        A goal shows what one camera would see there. A latent is dropped when a model with another latent
        space becomes active.

        Args:
            goal: An image (uint8 [h, w, 3] RGB), which the inference thread encodes, or a latent (float32
                [T, D]) of the active model; None: no goal.
            stamp_ns: Stamp of the goal.
            stream: The stream.

        Raises:
            JepaRuntimeError: There is no such stream.
            ValueError: The latent has another shape, or is not finite.
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
        """Return the futures of action sequences from the newest image of ``stream``.

        Waits until the inference thread has predicted them in the time that frames leave.

        Args:
            actions: Action sequences [K, H', A], for any K.
            timeout_s: Maximum wait.
            stream: The stream.
            latents: Whether to return latents in addition to energies.

        Raises:
            ValueError: The actions are not such sequences, or their latents would be too large.
            JepaRuntimeError: There is no such stream, there is no goal and no latents are requested, too many
                requests are pending, or the time is over.
        """
        self._check(stream)
        request = EvaluationRequest(self.model.manifest, actions, stream, latents=latents)
        self._evaluations.submit(request)
        self._mailbox.wake()
        return request.wait(timeout_s)

    def score(
        self,
        latents: NDArray[np.floating],
        goal: NDArray[np.floating] | None = None,
        *,
        timeout_s: float,
        stream: str = "",
        pose_indices: NDArray[np.integer] | Sequence[int] = (),
    ) -> Scores:
        """Return the energies of latents to a goal, or to the newest image of ``stream``, and its poses.

        Waits until the inference thread has computed them in the time that frames leave.

        Args:
            latents: Latents [N, T, D] of the active model.
            goal: Latent [T, D]; None: that of the newest image.
            timeout_s: Maximum wait.
            stream: The stream.
            pose_indices: Indices of the latents in whose frames the pose of the goal is read.

        Raises:
            ValueError: They have another shape, are too many, or are not finite; or an index is out of range.
            BundleError: Poses are requested, and the model reads none.
            JepaRuntimeError: There is no such stream, too many requests are pending, or the time is over.
        """
        self._check(stream)
        indices = np.array(pose_indices, np.int64)
        request = ScoreRequest(self.model.manifest, latents, goal, stream, indices)
        self._evaluations.submit(request)
        self._mailbox.wake()
        return request.wait(timeout_s)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until all submitted frames are processed, dropped or failed; return False on timeout."""
        with self._progress:
            return self._progress.wait_for(lambda: self._finished() >= self._mailbox.accepted(), timeout_s)

    def wait_gap(self) -> None:
        """Wait until the next frame is finished, for at most 0.1 s.

        Until the frame after it is due, background work does not delay the pipeline.
        """
        with self._progress:
            before = self._finished()
            self._progress.wait_for(lambda: self._finished() > before, _GAP_S)

    def stats(self, stream: str | None = None) -> Stats:
        """Return the counters of one stream, or (None) of all together.

        Raises:
            JepaRuntimeError: There is no such stream.
        """
        if stream is not None:
            self._check(stream)
            received, dropped = self._mailbox.counts(stream)
            with self._sampling:
                skipped = self._skipped[stream]
            with self._progress:
                return self._counters[stream].stats(received + skipped, dropped, skipped)
        return sum_stats(self.stats(each) for each in self._counters)

    def _finished(self) -> int:
        return sum(counters.finished for counters in self._counters.values())

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise JepaRuntimeError("the pipeline has stopped: create a new one", code="pipeline.stopped")

    def _check(self, stream: str) -> None:
        if stream not in self._counters:
            raise JepaRuntimeError(
                f"no stream {stream!r}: the pipeline has {', '.join(map(repr, self._counters))}",
                code="pipeline.unknown_stream",
            )

    def _create_thread(self, open_model: Callable[[], WorldModel], *, in_background: bool) -> InferenceThread:
        pause = self.wait_gap if in_background else lambda: None

        def open_processor() -> FrameProcessor:
            pause()
            model = open_model()
            try:
                pause()
                return FrameProcessor(model, self._config)
            except BaseException:
                model.close()
                raise

        return InferenceThread(open_processor, self._serve, self._mailbox.wake, in_background=in_background)

    def _switch_to(self, thread: InferenceThread) -> bool:
        """Make ``thread`` active between two frames."""
        self._thread.deactivate(_TIMEOUT_S)
        try:
            continues = thread.processor.shares_latent_space(self._thread.processor)
            if self._on_model is not None:
                self._on_model(thread.processor.model, continues)
            # Nothing may fail from here on: the state of the other model is shared.
            thread.processor.adopt_state(self._thread.processor)
            if not continues:
                self._goals.set_again()
        except BaseException:
            self._thread.activate()
            raise
        self._thread, self._standby = thread, self._thread
        thread.activate()
        return continues

    def _close_standby(self, timeout_s: float) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            self.wait_gap()
            standby.close(timeout_s, in_background=True)

    def _serve(self, processor: FrameProcessor) -> None:
        taken = self._mailbox.take(self._evaluations.frame_timeout_s())
        self._take_goals(processor)
        self._take_each(self._actions, processor.add_action)
        self._take_each(self._states, processor.add_state)
        if taken is None:
            self._evaluations.run_next(processor)
            return
        stream, (frame, submitted_ns, clip) = taken
        _, dropped = self._mailbox.counts(stream)
        self._evaluations.add_frame(stream, submitted_ns)
        counters, callbacks, delivered = self._counters[stream], self._callbacks, True
        try:
            if clip is not None and not clip.is_complete:
                processor.fill_cache(stream, clip)
                with self._progress:
                    counters.skip(dropped=dropped)
                    self._progress.notify_all()
                return
            result = processor.process(frame, submitted_ns, clip)
            if result.futures is not None:
                delivered = callbacks.deliver(callbacks.on_futures, result, frame)
            result = processor.with_surprise(result)
            delivered = callbacks.deliver(callbacks.on_result, result, frame) and delivered
            calibrated = processor.update_calibration(result)
            if calibrated is not None:
                delivered = callbacks.deliver(callbacks.on_calibration, calibrated, frame) and delivered
        except Exception as error:
            with self._progress:
                counters.fail(dropped=dropped)
                self._progress.notify_all()
            callbacks.report(error, frame)
            return
        # Last, because wait_idle returns only when everything is delivered.
        with self._progress:
            counters.add(result, delivered=delivered, dropped=dropped)
            self._progress.notify_all()

    def _take_goals(self, processor: FrameProcessor) -> None:
        for stream, goal, stamp_ns in self._goals.take(processor.model.latent_space):
            try:
                processor.set_goal(stream, goal, stamp_ns)
            except Exception as error:
                self._callbacks.report(error, None)

    def _take_each(
        self,
        waiting: deque[tuple[int, NDArray[np.floating]]],
        add: Callable[[int, NDArray[np.floating]], None],
    ) -> None:
        while waiting:
            stamp_ns, values = waiting.popleft()
            try:
                add(stamp_ns, values)
            except ValueError as error:
                self._callbacks.report(error, None)
