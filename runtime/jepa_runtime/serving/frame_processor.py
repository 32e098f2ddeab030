"""Processing of each frame with one model, on the thread that owns it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import CalibrationMonitor, ErrorSample, create_monitor
from jepa_runtime.errors import BackendError, BundleError
from jepa_runtime.model.encoder_cache import EncoderCache
from jepa_runtime.model.rollouts import RolloutRequest, zero_states
from jepa_runtime.model.world_model import Futures, WorldModel
from jepa_runtime.planning.candidates import default_candidates
from jepa_runtime.serving.clip_sampler import Clip
from jepa_runtime.serving.goals import Goal, is_image
from jepa_runtime.serving.history import Context, History, PastContext, Reset
from jepa_runtime.serving.latency_compensation import advance
from jepa_runtime.serving.motion_response import MotionResponse
from jepa_runtime.serving.types import STAGES, Candidates, Result
from jepa_runtime.sources.base import Frame
from jepa_runtime.util.finite import are_finite
from jepa_runtime.util.opencv import cv2


@dataclass(frozen=True, kw_only=True)
class ProcessingConfig:
    """Settings of the processing; see :class:`~jepa_runtime.serving.pipeline.Pipeline`.

    Raises:
        ValueError: ``streams`` is empty or has duplicates, or a probability or a time is out of range.
    """

    streams: tuple[str, ...] = ("",)
    candidates: Callable[[], Candidates | NDArray[np.float32] | None] | None = None
    deadline_ms: float | None = None
    tolerance_s: float | None = None
    max_gap_s: float | None = None
    error_probability: float = 0.9
    false_alarm_every_s: float = 600.0
    actuation_delay_s: float = 0.0
    clock_ns: Callable[[], int] = time.perf_counter_ns

    def __post_init__(self) -> None:
        if not self.streams or len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams must be one or more different names, got {list(self.streams)}")
        if not 0 < self.error_probability < 1:
            raise ValueError(f"error_probability must lie between 0 and 1, got {self.error_probability}")
        if not self.false_alarm_every_s > 0:
            raise ValueError(f"false_alarm_every_s must be positive, got {self.false_alarm_every_s}")
        if not 0 <= self.actuation_delay_s < math.inf:
            raise ValueError(f"actuation_delay_s must be at least 0, got {self.actuation_delay_s}")


@dataclass(slots=True)
class _StreamState:
    """State of one stream."""

    history: History
    monitor: CalibrationMonitor
    # The newest latent and the previous one with their stamps, to detect discontinuities.
    newest: tuple[int, NDArray[np.float32]] | None = None
    # frame_id and size of the newest image.
    source: tuple[str, tuple[int, ...]] | None = None
    previous: tuple[int, NDArray[np.float32]] | None = None
    goal: NDArray[np.float32] | None = None
    goal_stamp_ns: int | None = None
    # Of the newest clip.
    clock_jumps: int = 0
    # Of a causal encoder.
    cache: EncoderCache | None = None


@dataclass(frozen=True)
class PredictionContext:
    """The state from which futures of a stream start.

    Attributes:
        context: Recent latents and actions.
        error_bounds: Error bounds [H] in force.
        goal: Latent of the goal; None: there is none.
        goal_stamp_ns: Stamp of the goal.
    """

    context: Context
    error_bounds: NDArray[np.float32]
    goal: NDArray[np.float32] | None
    goal_stamp_ns: int | None


class FrameProcessor:
    """An open model with the state of each stream. Created, used and closed on one thread.

    The constructor runs every graph once, because engines allocate memory on their first run.

    Args:
        model: The open model.
        config: Settings.
    """

    def __init__(self, model: WorldModel, config: ProcessingConfig) -> None:
        self.model = model
        self._config = config
        self._motion_response = MotionResponse.of(model)
        self._streams = {
            stream: _StreamState(self._create_history(), self._create_monitor(), cache=model.create_cache())
            for stream in config.streams
        }
        self._default_candidates = Candidates(default_candidates(model.manifest, model.num_samples), "fan")
        self._actuation_ns = round(config.actuation_delay_s * 1e9)
        self._warm_up()

    @property
    def alarms_disabled_reason(self) -> str:
        """Reason why alarms are disabled; empty: they are enabled."""
        return next(iter(self._streams.values())).monitor.alarms_disabled_reason

    def process(self, frame: Frame, submitted_ns: int, clip: Clip | None = None) -> Result:
        """Encode a frame, add it to the history, and predict futures; everything but the surprise.

        Args:
            frame: The frame.
            submitted_ns: When it was submitted, by the clock of the settings.
            clip: The clip that ends with the frame, see
                :class:`~jepa_runtime.serving.clip_sampler.ClipSampler`; None: only the frame.

        Raises:
            BackendError: Outputs of the model are not finite, or a pose is not valid.
            ValueError: The candidates do not fit the model.
        """
        model, state, clock_ns = self.model, self._streams[frame.stream], self._config.clock_ns
        timings = dict.fromkeys(STAGES, 0.0)
        timings["wait"] = (clock_ns() - submitted_ns) / 1e6
        latent = model.encode(frame.image) if clip is None else self._encode_clip(clip, frame.stream)
        timings["preprocess"], timings["encode"] = model.timings["preprocess"], model.timings["encode"]
        if not are_finite(latent):
            raise self._not_finite("latents")
        latent.flags.writeable = False
        source = frame.frame_id, frame.image.shape
        if state.source not in (None, source):
            state.history.restart(Reset.FRAME)
        state.source = source
        if clip is not None and clip.clock_jumps != state.clock_jumps:
            state.clock_jumps = clip.clock_jumps
            state.history.restart(Reset.CLOCK_BACKWARDS)
        reset = state.history.add_latent(frame.stamp_ns, latent)
        state.previous, state.newest = state.newest, (frame.stamp_ns, latent)
        if reset is not None:
            state.monitor.reset()
        candidates = self._candidates()
        context = state.history.context()
        futures = calibration = None
        compensated_ns = 0
        if context is not None:
            began_ns = clock_ns()
            context = self._advance(state.history, context, candidates.delay_ns)
            compensated_ns = context.stamp_ns - frame.stamp_ns
            advance_ms = (clock_ns() - began_ns) / 1e6 if compensated_ns else 0.0
            futures = self.predict(candidates.actions, context, state.goal)
            calibration = state.monitor.state(frame.stamp_ns)
            ahead = calibration.ahead(state.history.steps_in(compensated_ns))
            bounds = ahead.bounds[: futures.actions.shape[1]].astype(np.float32)
            futures = Futures(futures.latents, futures.actions, futures.energies, bounds)
            timings["predict"] = advance_ms + model.timings["predict"]
            timings["energy"] = 0.0 if state.goal is None else model.timings["energy"]
        current_energy = goal_pose = None
        if state.goal is not None:
            current_energy = float(model.energy(latent, state.goal))
            if not math.isfinite(current_energy):
                raise self._not_finite("energies")
            timings["energy"] += model.timings["energy"]
            goal_pose = model.goal_pose(state.goal, latent=latent)
            timings["relative_pose"] = 0.0 if goal_pose is None else model.timings["relative_pose"]
        timings["total"] = (clock_ns() - submitted_ns) / 1e6
        deadline_ms = self._config.deadline_ms
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
            goal_stamp_ns=state.goal_stamp_ns,
            current_energy=current_energy,
            timings_ms=timings,
            # The model reports the time of its last prediction, which may be that of an earlier frame.
            device_ms={
                stage: took
                for stage, took in model.device_timings.items()
                if stage != "predict" or futures is not None
            },
            deadline_missed=deadline_ms is not None and timings["total"] > deadline_ms,
            stream=frame.stream,
            calibration=calibration,
            compensated_ns=compensated_ns,
            goal_pose=goal_pose,
        )

    def fill_cache(self, stream: str, clip: Clip) -> None:
        """Encode the newest step of an incomplete clip for the cache of a causal encoder.

        Raises:
            BackendError: The latents are not finite.
        """
        if not are_finite(self._encode_clip(clip, stream)):
            raise self._not_finite("latents")

    def _encode_clip(self, clip: Clip, stream: str) -> NDArray[np.float32]:
        return self.model.encode_clip(clip.images, self._streams[stream].cache, clip.step)

    def predict(
        self, actions: NDArray[np.floating], context: Context, goal: NDArray[np.float32] | None
    ) -> Futures:
        """Return the futures of action sequences after ``context``.

        Args:
            actions: Up to K action sequences [K', H', A].
            context: Recent latents and actions.
            goal: Latent of the goal; None: no energies.

        Raises:
            ValueError: They are not such sequences.
            BackendError: Outputs of the model are not finite.
        """
        futures = self.model.predict(
            actions,
            latents=context.latents,
            history_actions=context.actions,
            history_states=context.states,
            goal=goal,
        )
        latents, energies = futures.latents, futures.energies
        # Energies without their own graph depend on all values of the latents, so checking them is enough.
        has_energy_graph = bool(self.model.manifest.graphs.energy)
        if (energies is None or has_energy_graph) and not are_finite(latents):
            raise self._not_finite("futures")
        if energies is not None and not are_finite(energies):
            raise self._not_finite("energies" if are_finite(latents) else "futures")
        return futures

    def with_surprise(self, result: Result) -> Result:
        """Return the result with the error of the prediction made one step ago, if there was one.

        It also states how the frame shows the executed actions.

        Raises:
            BackendError: Outputs of the model are not finite.
        """
        state = self._streams[result.stream]
        past = state.history.past_context(1)
        if past is None:
            return result
        context = past.context
        began_ns = self._config.clock_ns()
        outcome = self.model.outcome(
            context.latents, context.actions, past.actions[0], result.latent, history_states=context.states
        )
        if not math.isfinite(outcome.surprise):
            raise self._not_finite("surprises")
        result.timings_ms["surprise"] = (self._config.clock_ns() - began_ns) / 1e6
        manifest = self.model.manifest
        if self._motion_response is not None:
            response = self._motion_response.newest(state.history, result.latent)
        else:
            resolution = manifest.error_bounds[0] / math.sqrt(result.latent.size)
            is_visible = outcome.predicted_change > resolution
            response = outcome.observed_change / outcome.predicted_change if is_visible else math.nan
        return replace(
            result,
            surprise=outcome.surprise,
            surprising=outcome.surprise > manifest.surprise_threshold,
            executed=state.history.mean_magnitude(),
            response=response,
            discontinuous=self._is_discontinuous(state, outcome.predicted_change),
        )

    def _is_discontinuous(self, state: _StreamState, predicted_change: float) -> bool:
        """Return whether the newest latent is too far from the previous one.

        The limit is the predicted change of a step, scaled by their distance in time, plus the surprise
        threshold. Images of two cameras in turn exceed it, although each agrees with the image one step
        before.
        """
        if state.previous is None or state.newest is None:
            return False
        (previous_ns, previous), (newest_ns, newest) = state.previous, state.newest
        steps = max((newest_ns - previous_ns) / 1e9 / self.model.manifest.io.step_s, 1.0)
        jump = cv2.norm(newest, previous, cv2.NORM_L2) / math.sqrt(newest.size)
        return jump > self.model.manifest.surprise_threshold + steps * predicted_change

    def update_calibration(self, result: Result) -> Result | None:
        """Return the newest result :meth:`with_surprise`, with prediction errors and alarms.

        Once per step the errors over all horizons are computed, which takes some rollouts.

        Returns:
            None if there are neither errors nor alarms.
        """
        monitor = self._streams[result.stream].monitor
        sample = self._error_sample(result) if monitor.is_due(result.stamp_ns) else None
        alarms = monitor.take_alarms()
        return None if sample is None and not alarms else replace(result, error_sample=sample, alarms=alarms)

    def _error_sample(self, result: Result) -> ErrorSample | None:
        """Compare the latents that arrived with those predicted of the executed actions."""
        state = self._streams[result.stream]
        history, ages = state.history, state.monitor.ages
        last_step, oldest = history.past_context(1), history.past_context(ages[-1])
        if result.surprise is None or last_step is None or oldest is None:
            return None
        between = [past for age in ages[1:-1] if (past := history.past_context(age)) is not None]
        pasts = [oldest, *between]
        predicted = self.model.predict_each(
            [
                RolloutRequest(past.context.latents, past.context.actions, past.actions, past.context.states)
                for past in pasts
            ]
        )
        errors, *nearer = (_errors(*pair) for pair in zip(predicted, pasts, strict=True))
        from_ns = [oldest.context.stamp_ns] * ages[-1]
        for age in ages[1:-1]:
            errors[age - 1] = np.nan
        for past, past_errors in zip(between, nearer, strict=True):
            age = len(past.actions)
            errors[age - 1], from_ns[age - 1] = past_errors[-1], past.context.stamp_ns
        errors[0] = result.surprise * math.sqrt(result.latent.size)
        from_ns[0] = last_step.context.stamp_ns
        return state.monitor.add_errors(result.stamp_ns, errors, from_ns)

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """See :meth:`~jepa_runtime.serving.pipeline.Pipeline.add_action`.

        Raises:
            ValueError: It is not an action of this model.
        """
        limit = self.model.manifest.io.action.max_plausible
        if (np.abs(action) > limit).any():
            raise ValueError(f"action must be finite numbers of at most {limit:g}, got {action.tolist()}")
        for state in self._streams.values():
            state.history.add_action(stamp_ns + self._actuation_ns, action)

    def add_state(self, stamp_ns: int, state: NDArray[np.floating]) -> None:
        """See :meth:`~jepa_runtime.serving.pipeline.Pipeline.add_state`.

        Raises:
            ValueError: It is not a state that this model reads.
        """
        for stream in self._streams.values():
            stream.history.add_state(stamp_ns, state)

    def prediction_context(self, stream: str, *, delay_ns: int = 0) -> PredictionContext | None:
        """Return the state from which futures of ``stream`` start; None: its history is not long enough.

        Args:
            stream: The stream.
            delay_ns: See :class:`~jepa_runtime.serving.types.Candidates`.
        """
        state = self._streams[stream]
        context = state.history.context()
        if context is None:
            return None
        bounds = state.monitor.bounds().astype(np.float32)
        context = self._advance(state.history, context, delay_ns)
        return PredictionContext(context, bounds, state.goal, state.goal_stamp_ns)

    def _advance(self, history: History, context: Context, delay_ns: int) -> Context:
        """Return the context when the first action takes effect that is sent after ``delay_ns``."""
        if not delay_ns:
            return context
        return advance(self.model, history, context, delay_ns + self._actuation_ns)

    def newest_latent(self, stream: str) -> tuple[int, NDArray[np.float32]] | None:
        """Return stamp and latent [T, D] of the newest image of ``stream``; None: there is none."""
        return self._streams[stream].newest

    def set_goal(self, stream: str, goal: Goal | None, stamp_ns: int) -> None:
        """Set a goal, and encode it if it is an image; if that fails there is no goal."""
        state = self._streams[stream]
        # Until the new goal is encoded there must be no energies to the old one.
        state.goal = state.goal_stamp_ns = None
        if goal is not None:
            state.goal = self.model.encode(goal) if is_image(goal) else goal.astype(np.float32, copy=False)
            state.goal_stamp_ns = stamp_ns

    def shares_latent_space(self, other: FrameProcessor) -> bool:
        """Return whether the latents of ``other`` are valid for this model."""
        ours, theirs = self.model, other.model
        return (ours.latent_space, ours.manifest.history_size) == (
            theirs.latent_space,
            theirs.manifest.history_size,
        )

    def adopt_state(self, other: FrameProcessor) -> None:
        """Continue with the state of ``other``: all of it in the same latent space, else the actions."""
        if self.shares_latent_space(other):
            self._streams = other._streams
            for state in self._streams.values():
                state.history.reach = self.model.manifest.horizon
                state.monitor = self._create_monitor(state.monitor)
            return
        previous = other._streams
        self._streams = {
            stream: _StreamState(
                self._create_history(),
                self._create_monitor(state.monitor),
                clock_jumps=state.clock_jumps,
                cache=self.model.create_cache(),
            )
            for stream, state in previous.items()
        }
        for stream, state in self._streams.items():
            state.history.adopt_actions(previous[stream].history)

    def check_compatible(self, other: FrameProcessor) -> None:
        """Check that this model can replace that of ``other`` without a restart.

        Raises:
            BundleError: Its actions, their limits, the state or clips that it reads, or its step differ.
        """
        theirs, ours = other.model.manifest.io, self.model.manifest.io
        if (ours.action, ours.state, ours.clip, ours.step_s) != (
            theirs.action,
            theirs.state,
            theirs.clip,
            theirs.step_s,
        ):
            raise BundleError(
                f"{self.model.bundle.path}: actions, limits, state, clips or step differ from those of the "
                "active model: restart with it instead of swapping",
                code="bundle.incompatible_actions",
            )

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def _not_finite(self, what: str) -> BackendError:
        """Return the error for outputs with NaN, which would compare as neither surprising nor better."""
        model = self.model
        return BackendError(
            f"{model.engine}:{model.device} ({model.precision}): the {what} are not finite: use another "
            "precision or engine (jepa-runtime verify)",
            code="backend.output_not_finite",
        )

    def _candidates(self) -> Candidates:
        proposed = None if self._config.candidates is None else self._config.candidates()
        if proposed is None:
            return self._default_candidates
        return proposed if isinstance(proposed, Candidates) else Candidates(proposed)

    def _create_history(self) -> History:
        manifest = self.model.manifest
        step_s, config = manifest.io.step_s, self._config
        max_gap_s = 2 * step_s if config.max_gap_s is None else config.max_gap_s
        history = History(
            manifest.history_size,
            round(step_s * 1e9),
            action_size=len(manifest.io.action.names),
            tolerance_ns=self._tolerance_ns(),
            max_gap_ns=round(max_gap_s * 1e9),
            reach=manifest.horizon,
            state_size=manifest.state_size,
        )
        if not manifest.takes_actions:
            # The only possible action is always executed.
            history.add_action(0, np.array(manifest.io.action.low))
        return history

    def _tolerance_ns(self) -> int:
        tolerance_s = self._config.tolerance_s
        return round((self.model.manifest.io.step_s / 8 if tolerance_s is None else tolerance_s) * 1e9)

    def _create_monitor(self, previous: CalibrationMonitor | None = None) -> CalibrationMonitor:
        config = self._config
        monitor = create_monitor(
            self.model,
            probability=config.error_probability,
            tolerance_ns=self._tolerance_ns(),
            false_alarm_every_s=config.false_alarm_every_s,
        )
        if previous is not None:
            monitor.adopt_state(previous)
        return monitor

    def _warm_up(self) -> None:
        model, manifest = self.model, self.model.manifest
        frame = manifest.io.frame
        latent = model.encode(np.zeros((frame.height, frame.width, 3), np.uint8))
        history = np.repeat(latent[None], manifest.history_size, axis=0)
        actions = np.zeros((manifest.history_size - 1, len(manifest.io.action.names)), np.float32)
        states = zero_states(manifest)
        candidates = self._default_candidates.actions
        model.predict(
            candidates, latents=history, history_actions=actions, history_states=states, goal=latent
        )
        model.surprise(history, actions, candidates[0, 0], latent, history_states=states)
        model.energy(latent, latent)
        if model.reads_poses:
            model.relative_poses(latent, latent)
            model.relative_poses(np.stack([latent, latent]), latent)


def _errors(predicted: NDArray[np.float32], past: PastContext) -> NDArray[np.float64]:
    """Return the norms [h] of predicted minus arrived latents; NaN where none arrived."""
    pairs = zip(predicted, past.arrived, strict=True)
    return np.array([np.nan if seen is None else np.linalg.norm(latent - seen) for latent, seen in pairs])
