"""What others ask beside the frames: which futures would follow from action sequences of theirs.

Frames come first. A question is worked on by the inference thread, one run of the predictor at a time, while
no frame waits and none is due before that run would be over. Whoever asks says how long they can wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.bundle.manifest import check_futures_size
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.frame_processor import FrameProcessor, PredictionContext

_MOST_SEQUENCES = 65536
# While there is no room for a question, it is looked for again after so long.
_LOOK_AGAIN_S = 0.01
# A run may take this much longer than the last one did.
_MARGIN = 1.25
# What is kept with each frame of how long the last run took: one that took long must not be the last.
_KEPT = 0.95
# As many of the last frames of a stream tell how far apart they come.
_INTERVALS = 4


@dataclass(frozen=True)
class Evaluation:
    """What would follow from K action sequences of H steps.

    Attributes:
        stamp_ns: of the image from which the futures start.
        latents: float32 [K, H, T, D]; None where they were not asked for.
        energies: float32 [K, H] to the goal; None without one.
        current_energy, goal_stamp_ns: None without a goal.
        error_bounds: float32 [H].
    """

    stamp_ns: int
    latents: NDArray[np.float32] | None
    energies: NDArray[np.float32] | None
    current_energy: float | None
    goal_stamp_ns: int | None
    error_bounds: NDArray[np.float32]


class EvaluationRequest:
    """One question, and what is known of its answer. All its futures start from one image.

    Args:
        actions: [K, H', A], of any K, of the model with this manifest.
        stream: whose image.
        latents: whether they are wanted too.

    Raises:
        ValueError: the actions are no such sequences, or their latents would be too large.

    Attributes:
        answer: what whoever asked waits for.
        begun: whether a part of it is known.
    """

    def __init__(
        self, manifest: Manifest, actions: NDArray[np.floating], stream: str, *, latents: bool
    ) -> None:
        asked = np.array(actions, np.float32)
        horizon, size, most = manifest.horizon, manifest.action_size, manifest.io.action.max_plausible
        fits = asked.ndim == 3 and 1 <= asked.shape[1] <= horizon and asked.shape[2] == size
        if not fits or not 1 <= len(asked) <= _MOST_SEQUENCES or not (np.abs(asked) <= most).all():
            raise ValueError(
                f"actions must be [1..{_MOST_SEQUENCES}, 1..{horizon}, {size}] finite numbers of at most "
                f"{most:g}, got {list(asked.shape)}"
            )
        if latents:
            check_futures_size(manifest, len(asked))
        self.answer: Future[Evaluation] = Future()
        self._actions, self._stream, self._wants_latents = asked, stream, latents
        self._obstacle = "the frames leave no time for it"
        self._asked_of: FrameProcessor | None = None
        self._standpoint: PredictionContext | None = None
        self._latents: list[NDArray[np.float32]] = []
        self._energies: list[NDArray[np.float32]] = []
        self._done = 0

    @property
    def begun(self) -> bool:
        return self._done > 0

    def work(self, inference: FrameProcessor) -> Evaluation | None:
        """Follow as many sequences as the model can in one run; the evaluation, once all are.

        Raises:
            JepaRuntimeError: neither are latents wanted, nor is there a goal; or the model gives no numbers.
        """
        if self._asked_of is not inference:
            # What another model said of the first sequences does not compare with the rest.
            self._asked_of, self._standpoint = inference, None
            self._latents, self._energies, self._done = [], [], 0
        self._standpoint = here = self._standpoint or inference.prediction_context(self._stream)
        if here is None:
            self._obstacle = (
                "there is no history yet from which futures could start: are images served, and is it known "
                "what the robot executes?"
            )
            return None
        if here.goal is None and not self._wants_latents:
            raise JepaRuntimeError("there is no goal, so there are no energies: set one, or ask for latents")
        model = inference.model
        asked = self._actions[self._done : self._done + model.num_samples]
        futures = inference.predict(asked, here.context, here.goal)
        self._done += model.num_samples
        if self._wants_latents:
            self._latents.append(futures.latents)
        if futures.energies is not None:
            self._energies.append(futures.energies)
        if self._done < len(self._actions):
            return None
        current_energy = None
        if here.goal is not None:
            current_energy = float(model.energy(here.context.latents[-1], here.goal))
        return Evaluation(
            stamp_ns=here.context.stamp_ns,
            latents=np.concatenate(self._latents) if self._wants_latents else None,
            energies=np.concatenate(self._energies) if self._energies else None,
            current_energy=current_energy,
            goal_stamp_ns=here.goal_stamp_ns,
            error_bounds=here.error_bounds[: self._actions.shape[1]],
        )

    def wait(self, timeout_s: float) -> Evaluation:
        """The answer.

        Raises:
            JepaRuntimeError: there is none in time; or see :meth:`work`.
            Exception: what the model raised.
        """
        try:
            return self.answer.result(timeout_s)
        except FutureTimeoutError:
            if self.answer.cancel():
                raise JepaRuntimeError(f"not evaluated within {timeout_s:g} s: {self._obstacle}") from None
            return self.answer.result()

    def settle(self, outcome: Evaluation | Exception) -> None:
        """Tell whoever asked, unless they have given up."""
        if not self.answer.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class EvaluationQueue:
    """The questions that wait, the oldest first. Any thread may ask; the inference thread answers.

    Args:
        clock_ns: monotonic, as that of the moments given to :meth:`frame_came`.
        limit: how many may wait.
    """

    def __init__(self, clock_ns: Callable[[], int], *, limit: int = 8) -> None:
        self._clock_ns = clock_ns
        self._limit = limit
        self._lock = Lock()
        self._waiting: list[EvaluationRequest] = []
        self._timetable = FrameTiming()
        self._run_ns = 0.0
        self._in_vain = False
        self._refusal = ""

    def ask(self, question: EvaluationRequest) -> None:
        """Let ``question`` wait for its turn.

        Raises:
            JepaRuntimeError: too many wait, or nobody answers any more.
        """
        with self._lock:
            if self._refusal:
                raise JepaRuntimeError(self._refusal)
            if len(self._not_given_up()) >= self._limit:
                raise JepaRuntimeError(f"{self._limit} evaluations wait already: ask again later")
            self._waiting.append(question)

    def frame_came(self, stream: str, moment_ns: int) -> None:
        """The frame of ``stream`` that is served now came at ``moment_ns``."""
        self._timetable.came(stream, moment_ns)
        self._run_ns *= _KEPT
        self._in_vain = False

    def patience_s(self) -> float | None:
        """How long to wait for a frame before :meth:`answer` is called; None: until one comes."""
        with self._lock:
            if not self._not_given_up():
                return None
        return _LOOK_AGAIN_S if self._in_vain else 0.0

    def answer(self, inference: FrameProcessor) -> None:
        """No frame waits: go on with the oldest question, unless a frame is due before that would be over."""
        with self._lock:
            waiting = self._not_given_up()
        if not waiting:
            return
        question, began_ns = waiting[0], self._clock_ns()
        self._in_vain = not self._has_room(inference, began_ns)
        if self._in_vain:
            return
        outcome: Evaluation | Exception | None
        try:
            outcome = question.work(inference)
        except Exception as error:
            outcome = error
        if question.begun:
            self._run_ns = self._clock_ns() - began_ns
        self._in_vain = outcome is None and not question.begun
        with self._lock:
            # Else it was refused meanwhile.
            waits = any(each is question for each in self._waiting)
            if self._in_vain:
                # Others may be about a stream of which more is known.
                self._waiting.sort(key=lambda each: each is question)
            elif outcome is not None:
                self._waiting = [each for each in self._waiting if each is not question]
        if outcome is not None and waits:
            question.settle(outcome)

    def refuse(self, why: str) -> None:
        """Nobody will answer any more: tell those who wait, and who asks."""
        with self._lock:
            self._refusal = why
            waiting, self._waiting = self._waiting, []
        for question in waiting:
            question.settle(JepaRuntimeError(why))

    def _has_room(self, inference: FrameProcessor, now_ns: int) -> bool:
        timings = inference.model.timings
        run_ns = max(self._run_ns, 1e6 * (timings["predict"] + timings["energy"]))
        due_ns = self._timetable.due_ns(now_ns)
        return due_ns is None or now_ns + _MARGIN * run_ns <= due_ns

    def _not_given_up(self) -> list[EvaluationRequest]:
        self._waiting = [question for question in self._waiting if not question.answer.cancelled()]
        return self._waiting


class FrameTiming:
    """When frames are due: as long after the last of their stream as the closest of those before came one
    after the other. A stream that missed its turn twice is not waited for."""

    def __init__(self) -> None:
        self._came: dict[str, deque[int]] = {}

    def came(self, stream: str, moment_ns: int) -> None:
        """A frame of ``stream`` came."""
        self._came.setdefault(stream, deque(maxlen=_INTERVALS + 1)).append(moment_ns)

    def due_ns(self, now_ns: int) -> int | None:
        """When the next frame is due, of whichever stream; it may be overdue. None: none is expected."""
        dues = []
        for moments in self._came.values():
            period = min((after - before for before, after in pairwise(moments)), default=None)
            if period is not None and now_ns <= moments[-1] + 2 * period:
                dues.append(moments[-1] + period)
        return min(dues, default=None)
