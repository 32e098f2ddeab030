"""A model at work: what is done with it for each frame, on the one thread to which it belongs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import CalibrationMonitor, ErrorSample, create_monitor
from jepa_runtime.errors import BackendError, BundleError
from jepa_runtime.model.world_model import Futures, WorldModel
from jepa_runtime.planning.default_candidates import default_candidates
from jepa_runtime.serving.goals import Goal, is_image
from jepa_runtime.serving.history import Context, History, PastContext, Reset
from jepa_runtime.serving.types import STAGES, Candidates, Result
from jepa_runtime.sources.base import Frame
from jepa_runtime.util.opencv import cv2


@dataclass(frozen=True, kw_only=True)
class ProcessingConfig:
    """How frames are to be processed; see :class:`~jepa_runtime.serving.pipeline.Pipeline`.

    Raises:
        ValueError: ``streams`` is empty, or names one twice; a probability or a time is out of range.
    """

    streams: tuple[str, ...] = ("",)
    candidates: Callable[[], Candidates | NDArray[np.float32] | None] | None = None
    deadline_ms: float | None = None
    tolerance_s: float | None = None
    max_gap_s: float | None = None
    error_probability: float = 0.9
    false_alarm_every_s: float = 600.0
    clock_ns: Callable[[], int] = time.perf_counter_ns

    def __post_init__(self) -> None:
        if not self.streams or len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams must be one name or several different ones, got {list(self.streams)}")
        if not 0 < self.error_probability < 1:
            raise ValueError(f"error_probability must lie between 0 and 1, got {self.error_probability}")
        if not self.false_alarm_every_s > 0:
            raise ValueError(f"false_alarm_every_s must be positive, got {self.false_alarm_every_s}")


@dataclass(slots=True)
class _View:
    """What is known of one stream."""

    history: History
    trust: CalibrationMonitor
    # The newest latent and the one before, with their stamps: what is discontinuous shows there.
    newest: tuple[int, NDArray[np.float32]] | None = None
    # frame_id and size of the newest image.
    source: tuple[str, tuple[int, ...]] | None = None
    before: tuple[int, NDArray[np.float32]] | None = None
    goal: NDArray[np.float32] | None = None
    goal_stamp_ns: int | None = None


@dataclass(frozen=True)
class PredictionContext:
    """From where futures of a stream start: what was seen and done lately, the goal, if there is one, and the
    error bounds [H] in force."""

    context: Context
    error_bounds: NDArray[np.float32]
    goal: NDArray[np.float32] | None
    goal_stamp_ns: int | None


class FrameProcessor:
    """An open model with what it remembers of each stream. Made, used and closed on one thread.

    Every graph has run once when it is made: engines allocate on their first run, which no frame should have
    to pay for.
    """

    def __init__(self, model: WorldModel, terms: ProcessingConfig) -> None:
        self.model = model
        self._terms = terms
        self._views = {stream: _View(self._new_history(), self._new_trust()) for stream in terms.streams}
        self._fan = Candidates(default_candidates(model.manifest, model.num_samples), "fan")
        self._warm_up()

    @property
    def alarms_disabled_reason(self) -> str:
        """Why no alarm is ever given; empty: they are."""
        return next(iter(self._views.values())).trust.alarms_disabled_reason

    def process(self, frame: Frame, submitted_ns: int) -> Result:
        """Encode, remember, predict, judge; all but the surprise.

        Raises:
            BackendError: the model gives no numbers.
        """
        model, view, clock_ns = self.model, self._views[frame.stream], self._terms.clock_ns
        timings = dict.fromkeys(STAGES, 0.0)
        timings["wait"] = (clock_ns() - submitted_ns) / 1e6
        latent = model.encode(frame.image)
        timings["preprocess"], timings["encode"] = model.timings["preprocess"], model.timings["encode"]
        if not are_finite(latent):
            raise self._gives_no_numbers("latents")
        latent.flags.writeable = False
        source = frame.frame_id, frame.image.shape
        if view.source not in (None, source):
            view.history.restart(Reset.FRAME)
        view.source = source
        reset = view.history.add_latent(frame.stamp_ns, latent)
        view.before, view.newest = view.newest, (frame.stamp_ns, latent)
        if reset is not None:
            view.trust.forget()
        candidates = self._candidates()
        context = view.history.context()
        futures = calibration = None
        if context is not None:
            futures = self.predict(candidates.actions, context, view.goal)
            calibration = view.trust.state(frame.stamp_ns)
            bounds = calibration.bounds[: futures.actions.shape[1]].astype(np.float32)
            futures = Futures(futures.latents, futures.actions, futures.energies, bounds)
            timings["predict"] = model.timings["predict"]
            timings["energy"] = 0.0 if view.goal is None else model.timings["energy"]
        current_energy = None
        if view.goal is not None:
            current_energy = float(model.energy(latent, view.goal))
            if not math.isfinite(current_energy):
                raise self._gives_no_numbers("energies")
            timings["energy"] += model.timings["energy"]
        timings["total"] = (clock_ns() - submitted_ns) / 1e6
        deadline_ms = self._terms.deadline_ms
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
            # A model keeps the time of its last prediction, whichever frame that was of.
            device_ms={
                stage: took
                for stage, took in model.device_timings.items()
                if stage != "predict" or futures is not None
            },
            deadline_missed=deadline_ms is not None and timings["total"] > deadline_ms,
            stream=frame.stream,
            calibration=calibration,
        )

    def predict(
        self, actions: NDArray[np.floating], context: Context, goal: NDArray[np.float32] | None
    ) -> Futures:
        """The futures of up to K action sequences [K', H', A] after ``context``.

        Raises:
            ValueError: they are no such sequences.
            BackendError: the model gives no numbers.
        """
        futures = self.model.predict(
            actions, latents=context.latents, history_actions=context.actions, goal=goal
        )
        latents, energies = futures.latents, futures.energies
        # Energies without a graph of their own are of all numbers of the latents: they tell of them too.
        learnt = bool(self.model.manifest.graphs.energy)
        if (energies is None or learnt) and not are_finite(latents):
            raise self._gives_no_numbers("futures")
        if energies is not None and not are_finite(energies):
            raise self._gives_no_numbers("energies" if are_finite(latents) else "futures")
        return futures

    def with_surprise(self, result: Result) -> Result:
        """The same with the error of the prediction made one step ago, where there was one, and with how the
        frame shows the executed actions.

        Raises:
            BackendError: the model gives no numbers.
        """
        view = self._views[result.stream]
        known = view.history.past_context(1)
        if known is None:
            return result
        context = known.context
        began_ns = self._terms.clock_ns()
        outcome = self.model.outcome(context.latents, context.actions, known.actions[0], result.latent)
        if not math.isfinite(outcome.surprise):
            raise self._gives_no_numbers("surprises")
        result.timings_ms["surprise"] = (self._terms.clock_ns() - began_ns) / 1e6
        manifest = self.model.manifest
        visible = manifest.error_bounds[0] / math.sqrt(result.latent.size)
        shown = outcome.predicted_change > visible
        return replace(
            result,
            surprise=outcome.surprise,
            surprising=outcome.surprise > manifest.surprise_threshold,
            executed=view.history.mean_magnitude(),
            response=outcome.observed_change / outcome.predicted_change if shown else math.nan,
            discontinuous=self._is_discontinuous(view, outcome.predicted_change),
        )

    def _is_discontinuous(self, view: _View, predicted_change: float) -> bool:
        """Whether the newest latent lies further from the one before than the prediction for one step, over
        their distance in time, and the threshold of surprise explain. Images of two cameras in turn do, which
        agree with the one a step before each."""
        if view.before is None or view.newest is None:
            return False
        (before_ns, before), (newest_ns, newest) = view.before, view.newest
        steps = max((newest_ns - before_ns) / 1e9 / self.model.manifest.io.step_s, 1.0)
        jump = cv2.norm(newest, before, cv2.NORM_L2) / math.sqrt(newest.size)
        return jump > self.model.manifest.surprise_threshold + steps * predicted_change

    def update_calibration(self, result: Result) -> Result | None:
        """The newest result :meth:`with_surprise`, and once a step with how surprising what came is over all
        horizons, which takes some rollouts, and with what alarms that gives; None where that tells nothing.
        """
        trust = self._views[result.stream].trust
        judged = self._judge(result) if trust.is_due(result.stamp_ns) else None
        alarms = trust.news()
        return None if judged is None and not alarms else replace(result, error_sample=judged, alarms=alarms)

    def _judge(self, result: Result) -> ErrorSample | None:
        """Compare what came with what would have been foreseen of what was executed."""
        view = self._views[result.stream]
        history, ages = view.history, view.trust.ages
        last_step, known = history.past_context(1), history.past_context(ages[-1])
        if result.surprise is None or last_step is None or known is None:
            return None
        between = [each for age in ages[1:-1] if (each := history.past_context(age)) is not None]
        looked = [known, *between]
        foreseen = self.model.follow(
            [(each.context.latents, each.context.actions, each.actions) for each in looked]
        )
        errors, *nearer = (_errors(*pair) for pair in zip(foreseen, looked, strict=True))
        from_ns = [known.context.stamp_ns] * ages[-1]
        for age in ages[1:-1]:
            errors[age - 1] = np.nan
        for each, found in zip(between, nearer, strict=True):
            age = len(each.actions)
            errors[age - 1], from_ns[age - 1] = found[-1], each.context.stamp_ns
        errors[0] = result.surprise * math.sqrt(result.latent.size)
        from_ns[0] = last_step.context.stamp_ns
        return view.trust.judge(result.stamp_ns, errors, from_ns)

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """See :meth:`~jepa_runtime.serving.pipeline.Pipeline.add_action`.

        Raises:
            ValueError: it is no action of this model.
        """
        most = self.model.manifest.io.action.max_plausible
        if (np.abs(action) > most).any():
            raise ValueError(f"action must be finite numbers of at most {most:g}, got {action.tolist()}")
        for view in self._views.values():
            view.history.add_action(stamp_ns, action)

    def prediction_context(self, stream: str) -> PredictionContext | None:
        """From where futures of ``stream`` start now; None: its history is not long enough."""
        view = self._views[stream]
        context = view.history.context()
        if context is None:
            return None
        bounds = view.trust.bounds().astype(np.float32)
        return PredictionContext(context, bounds, view.goal, view.goal_stamp_ns)

    def set_goal(self, stream: str, goal: Goal | None, stamp_ns: int) -> None:
        """Take a goal, and encode it if it is an image; without one that can be encoded there is none."""
        view = self._views[stream]
        # Energies to the old goal would mislead whoever set the new.
        view.goal = view.goal_stamp_ns = None
        if goal is not None:
            view.goal = self.model.encode(goal) if is_image(goal) else goal.astype(np.float32, copy=False)
            view.goal_stamp_ns = stamp_ns

    def shares_latent_space(self, other: FrameProcessor) -> bool:
        """Whether the latents that ``other`` remembers mean the same here."""
        ours, theirs = self.model, other.model
        return (ours.latent_space, ours.manifest.history_size) == (
            theirs.latent_space,
            theirs.manifest.history_size,
        )

    def adopt_state(self, other: FrameProcessor) -> None:
        """Go on where ``other`` stopped, with what it remembers: all, where its latents mean the same here;
        else the actions."""
        if self.shares_latent_space(other):
            self._views = other._views
            for view in self._views.values():
                view.history.reach = self.model.manifest.horizon
                view.trust = self._new_trust(view.trust)
            return
        before = other._views
        self._views = {
            stream: _View(self._new_history(), self._new_trust(before[stream].trust)) for stream in before
        }
        for stream, view in self._views.items():
            view.history.continue_actions(before[stream].history)

    def check_compatible(self, other: FrameProcessor) -> None:
        """Check that whoever deals with ``other`` can deal with this model without noticing.

        Raises:
            BundleError: its actions are others.
        """
        theirs, ours = other.model.manifest.io, self.model.manifest.io
        if (ours.action, ours.step_s) != (theirs.action, theirs.step_s):
            raise BundleError(
                f"{self.model.bundle.path}: has other actions, limits or steps than the model that serves: "
                "start anew with it instead"
            )

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def _gives_no_numbers(self, what: str) -> BackendError:
        """Nothing is surprising, and no plan better than another, to who compares with NaN: such a frame must
        not pass for a good one."""
        model = self.model
        return BackendError(
            f"{model.engine}:{model.device} ({model.precision}) gives {what} that are not finite: serve "
            "another precision or engine (jepa-runtime verify)"
        )

    def _candidates(self) -> Candidates:
        proposed = None if self._terms.candidates is None else self._terms.candidates()
        if proposed is None:
            return self._fan
        return proposed if isinstance(proposed, Candidates) else Candidates(proposed)

    def _new_history(self) -> History:
        manifest = self.model.manifest
        step_s, terms = manifest.io.step_s, self._terms
        max_gap_s = 2 * step_s if terms.max_gap_s is None else terms.max_gap_s
        history = History(
            manifest.history_size,
            round(step_s * 1e9),
            action_size=len(manifest.io.action.names),
            tolerance_ns=self._tolerance_ns(),
            max_gap_ns=round(max_gap_s * 1e9),
            reach=manifest.horizon,
        )
        if not manifest.takes_actions:
            # Nobody has to say which one is executed.
            history.add_action(0, np.array(manifest.io.action.low))
        return history

    def _tolerance_ns(self) -> int:
        asked_s = self._terms.tolerance_s
        return round((self.model.manifest.io.step_s / 8 if asked_s is None else asked_s) * 1e9)

    def _new_trust(self, before: CalibrationMonitor | None = None) -> CalibrationMonitor:
        terms = self._terms
        trust = create_monitor(
            self.model,
            probability=terms.error_probability,
            tolerance_ns=self._tolerance_ns(),
            false_alarm_every_s=terms.false_alarm_every_s,
        )
        if before is not None:
            trust.adopt_state(before)
        return trust

    def _warm_up(self) -> None:
        model, manifest = self.model, self.model.manifest
        frame = manifest.io.frame
        latent = model.encode(np.zeros((frame.height, frame.width, 3), np.uint8))
        history = np.repeat(latent[None], manifest.history_size, axis=0)
        actions = np.zeros((manifest.history_size - 1, len(manifest.io.action.names)), np.float32)
        model.predict(self._fan.actions, latents=history, history_actions=actions, goal=latent)
        model.surprise(history, actions, self._fan.actions[0, 0], latent)
        model.energy(latent, latent)


def are_finite(numbers: NDArray[np.float32]) -> bool:
    """Whether none of them (any shape) is NaN or infinite; in one pass, and without memory."""
    # The sum of their magnitudes in double, which finite ones cannot overflow.
    return math.isfinite(cv2.norm(numbers.reshape(1, -1), cv2.NORM_L1))


def _errors(foreseen: NDArray[np.float32], known: PastContext) -> NDArray[np.float64]:
    """Norms [h] of foreseen minus arrived latent, of what was executed; NaN where none arrived."""
    arrived = zip(foreseen, known.arrived, strict=True)
    return np.array([np.nan if came is None else np.linalg.norm(then - came) for then, came in arrived])
