"""The real-time loop: newest-frame mailbox -> encode -> history -> predict -> result, on one inference
thread.

The thread opens, uses and closes the model; every other thread only puts frames, actions and goals and takes
results from the callback. A frame that fails is counted and reported, and the next one is served.

Several streams (cameras) share the thread and the model, and each has a place in the mailbox, a history and a
goal of its own. Their frames are interleaved, one inference each: a batch would have to wait for the last
camera's frame, would need graphs compiled for every number of cameras, and one camera that fails would hold
up the others. A frame waits for at most the one in work and one of every other stream.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Condition, Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.history import History
from jepa_runtime.mailbox import Mailbox
from jepa_runtime.planning.fan import fan
from jepa_runtime.results import STAGES, Candidates, Result, Stats, Tally, total
from jepa_runtime.sources.base import Frame
from jepa_runtime.world_model import Futures, WorldModel

_LOG = logging.getLogger(__name__)
_MAX_WAITING_ACTIONS = 1024

__all__ = ["STAGES", "Candidates", "Pipeline", "Result", "Stats"]


@dataclass(slots=True)
class _View:
    """What the inference thread knows of one stream."""

    history: History
    goal: NDArray[np.float32] | None = None
    goal_stamp_ns: int | None = None


class Pipeline:
    """Serves a model to whoever has frames.

    Args:
        open_model: called on the inference thread; what it returns is used and closed there.
        on_result: called on the inference thread with each :class:`Result`; whatever time it takes the next
            frame waits.
        on_futures: called there before it, with a result that has futures and as yet no surprise: for whoever
            must not wait until that is computed too.
        deadline_ms: ``total`` above this counts as a miss; None: no deadline.
        on_error: called on the inference thread with what went wrong, and the frame if it was about one;
            logged if left out.
        candidates: called on the inference thread once per frame; None (or returning None): the fan.
        tolerance_s, max_gap_s: see :class:`~jepa_runtime.history.History`; an eighth of a step and two steps.
        streams: names of the streams that frames belong to (:attr:`Frame.stream`).
        clock_ns: a monotonic clock for the stage clocks. Stamps of frames are never compared with it.

    Raises:
        ValueError: ``streams`` is empty, or names one twice.
    """

    def __init__(
        self,
        open_model: Callable[[], WorldModel],
        *,
        on_result: Callable[[Result], None],
        on_futures: Callable[[Result], None] | None = None,
        deadline_ms: float | None = None,
        on_error: Callable[[Exception, Frame | None], None] | None = None,
        candidates: Callable[[], Candidates | NDArray[np.float32] | None] | None = None,
        tolerance_s: float | None = None,
        max_gap_s: float | None = None,
        streams: Sequence[str] = ("",),
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if not streams or len(set(streams)) < len(streams):
            raise ValueError(f"streams must be one name or several different ones, got {list(streams)}")
        self._open_model = open_model
        self._on_result = on_result
        self._on_futures = on_futures
        self._on_error = on_error
        self._propose = candidates
        self._deadline_ms = deadline_ms
        self._tolerance_s = tolerance_s
        self._max_gap_s = max_gap_s
        self._clock_ns = clock_ns
        self._mailbox: Mailbox[tuple[Frame, int]] = Mailbox(streams)
        # Setting and popping an item of a dict or a bounded deque is atomic: the newest goal wins, the oldest
        # actions give way.
        self._goals: dict[str, tuple[NDArray[np.uint8] | None, int]] = {}
        self._actions: deque[tuple[int, NDArray[np.floating]]] = deque(maxlen=_MAX_WAITING_ACTIONS)
        self._opened, self._stopping = Event(), Event()
        self._open_error: Exception | None = None
        self._model: WorldModel | None = None
        self._progress = Condition(Lock())
        self._tallies = {stream: Tally() for stream in streams}
        self._thread = Thread(target=self._run, name="jepa-inference", daemon=True)

    @property
    def model(self) -> WorldModel:
        """The open model, to read what it is (manifest, engine, device); the inference thread alone runs it.

        Raises:
            JepaRuntimeError: the pipeline was not started.
        """
        if self._model is None:
            raise JepaRuntimeError("the pipeline has no model: call start() first")
        return self._model

    def start(self) -> None:
        """Start the inference thread and wait until the model is open and has run once.

        Raises:
            JepaRuntimeError: the pipeline was started before, even if it was stopped since.
            Exception: whatever opening the model or its first run raised.
        """
        if self._thread.ident is not None:
            raise JepaRuntimeError("the pipeline was started before: make a new one")
        self._thread.start()
        self._opened.wait()
        if self._open_error is not None:
            self._thread.join()
            raise self._open_error

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the inference thread after the frame in work; the model is closed there. May be called again.

        Raises:
            JepaRuntimeError: the thread did not end in time (the model hangs); it is left behind as a daemon.
        """
        self._stopping.set()
        self._mailbox.wake()
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise JepaRuntimeError(
                f"the inference thread did not end within {timeout_s:g} s: a frame or a callback is stuck"
            )

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
        self._mailbox.put((frame, self._clock_ns()), frame.stream)

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """``action`` [A] (SI units) is being executed from ``stamp_ns`` (the frames' clock) on: by the one
        robot that all streams see."""
        self._actions.append((stamp_ns, action))

    def set_goal(self, image: NDArray[np.uint8] | None, stamp_ns: int = 0, stream: str = "") -> None:
        """Seek what ``image`` (uint8 [h, w, 3] RGB) shows; None: nothing. The inference thread encodes it.

        A goal is what one camera would see there, so it is the goal of one stream.

        Raises:
            JepaRuntimeError: there is no such stream.
        """
        self._check(stream)
        self._goals[stream] = (image, stamp_ns)
        self._mailbox.wake()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every frame submitted so far was processed, dropped or failed; False if that took too
        long.
        """

        def idle() -> bool:
            return sum(tally.finished for tally in self._tallies.values()) >= self._mailbox.accepted()

        with self._progress:
            return self._progress.wait_for(idle, timeout_s)

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

    def _check(self, stream: str) -> None:
        if stream not in self._tallies:
            raise JepaRuntimeError(
                f"no stream {stream!r}: the pipeline has {', '.join(map(repr, self._tallies))}"
            )

    def _run(self) -> None:
        try:
            model = self._open_model()
            try:
                views = {stream: _View(self._history_for(model)) for stream in self._tallies}
                default = Candidates(fan(model.manifest, model.num_samples), "fan")
                _warm_up(model, default)
                self._model = model
                self._opened.set()
                while not self._stopping.is_set():
                    self._serve(model, views, default)
            finally:
                model.close()
        except Exception as error:
            if self._opened.is_set():
                self._report(error, None)
            else:
                self._open_error = error
                self._opened.set()

    def _history_for(self, model: WorldModel) -> History:
        step_s = model.manifest.io.step_s
        tolerance_s = step_s / 8 if self._tolerance_s is None else self._tolerance_s
        max_gap_s = 2 * step_s if self._max_gap_s is None else self._max_gap_s
        return History(
            model.manifest.history_size,
            round(step_s * 1e9),
            action_size=len(model.manifest.io.action.names),
            tolerance_ns=round(tolerance_s * 1e9),
            max_gap_ns=round(max_gap_s * 1e9),
        )

    def _serve(self, model: WorldModel, views: dict[str, _View], default: Candidates) -> None:
        taken = self._mailbox.take()
        self._take_goals(model, views)
        self._take_actions(views)
        if taken is None:
            return
        stream, (frame, submitted_ns) = taken
        tally = self._tallies[stream]
        view, delivered = views[stream], True
        try:
            result = self._process(model, view, default, frame, submitted_ns)
            if result.futures is not None and self._on_futures is not None:
                delivered = self._deliver(self._on_futures, result, frame)
            result = self._with_surprise(model, view.history, result)
        except Exception as error:
            with self._progress:
                tally.failed += 1
                self._progress.notify_all()
            self._report(error, frame)
            return
        delivered = self._deliver(self._on_result, result, frame) and delivered
        # Only now: who waits for an idle pipeline wants the result delivered too.
        with self._progress:
            tally.add(result, delivered=delivered)
            self._progress.notify_all()

    def _deliver(self, callback: Callable[[Result], None], result: Result, frame: Frame) -> bool:
        try:
            callback(result)
        except Exception as error:
            self._report(error, frame)
            return False
        return True

    def _process(
        self, model: WorldModel, view: _View, default: Candidates, frame: Frame, submitted_ns: int
    ) -> Result:
        timings = dict.fromkeys(STAGES, 0.0)
        timings["wait"] = (self._clock_ns() - submitted_ns) / 1e6
        latent = model.encode(frame.image)
        timings["preprocess"], timings["encode"] = model.timings["preprocess"], model.timings["encode"]
        reset = view.history.add_latent(frame.stamp_ns, latent)
        candidates = self._candidates(default)
        context = view.history.context()
        futures = None
        if context is not None:
            futures = model.predict(
                candidates.actions, latents=context.latents, history_actions=context.actions
            )
            timings["predict"] = model.timings["predict"]
        current_energy = None
        if view.goal is not None:
            began_ns = self._clock_ns()
            current_energy = float(model.energy(latent, view.goal))
            if futures is not None:
                energies = model.energy(futures.latents, view.goal)
                futures = Futures(futures.latents, futures.actions, energies, futures.error_bounds)
            timings["energy"] = (self._clock_ns() - began_ns) / 1e6
        timings["total"] = (self._clock_ns() - submitted_ns) / 1e6
        return Result(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            sequence=frame.sequence,
            latent=latent,
            futures=futures,
            candidates=candidates,
            reset=reset,
            surprise=None,
            surprising=False,
            goal_stamp_ns=view.goal_stamp_ns,
            current_energy=current_energy,
            timings_ms=timings,
            deadline_missed=self._deadline_ms is not None and timings["total"] > self._deadline_ms,
            stream=frame.stream,
        )

    def _candidates(self, default: Candidates) -> Candidates:
        proposed = None if self._propose is None else self._propose()
        if proposed is None:
            return default
        return proposed if isinstance(proposed, Candidates) else Candidates(proposed)

    def _with_surprise(self, model: WorldModel, history: History, result: Result) -> Result:
        known = history.previous()
        if known is None:
            return result
        context, action = known
        began_ns = self._clock_ns()
        surprise = float(model.surprise(context.latents, context.actions, action, result.latent))
        result.timings_ms["surprise"] = (self._clock_ns() - began_ns) / 1e6
        surprising = surprise > model.manifest.surprise_threshold
        return replace(result, surprise=surprise, surprising=surprising)

    def _take_goals(self, model: WorldModel, views: dict[str, _View]) -> None:
        while self._goals:
            stream, (image, stamp_ns) = self._goals.popitem()
            view = views[stream]
            # Until the new goal is encoded there is none: energies to the old one would mislead whoever set
            # the new.
            view.goal = view.goal_stamp_ns = None
            if image is None:
                continue
            try:
                view.goal = model.encode(image)
                view.goal_stamp_ns = stamp_ns
            except Exception as error:
                self._report(error, None)

    def _take_actions(self, views: dict[str, _View]) -> None:
        while self._actions:
            stamp_ns, action = self._actions.popleft()
            try:
                for view in views.values():
                    view.history.add_action(stamp_ns, action)
            except ValueError as error:
                self._report(error, None)

    def _report(self, error: Exception, frame: Frame | None) -> None:
        about = "" if frame is None else f" (frame {frame.sequence}, stamp {frame.stamp_ns} ns)"
        if self._on_error is None:
            _LOG.error("%s%s", error, about, exc_info=error)
            return
        try:
            self._on_error(error, frame)
        except Exception:
            _LOG.exception("the error callback failed while reporting: %s%s", error, about)


def _warm_up(model: WorldModel, default: Candidates) -> None:
    """Run every graph once: engines allocate on their first run, which no frame should have to pay for."""
    manifest = model.manifest
    frame = manifest.io.frame
    latent = model.encode(np.zeros((frame.height, frame.width, 3), np.uint8))
    history = np.repeat(latent[None], manifest.history_size, axis=0)
    actions = np.zeros((manifest.history_size - 1, len(manifest.io.action.names)), np.float32)
    futures = model.predict(default.actions, latents=history, history_actions=actions)
    model.surprise(history, actions, default.actions[0, 0], latent)
    model.energy(futures.latents, latent)
    model.energy(latent, latent)
