"""A simulated robot: world model and controller as the ROS nodes combine them, in simulated time.

The images, the search iterations and all safety checks are those of the robot; only processes and the
messages between them are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import Calibration, ErrorSample
from jepa_runtime.control import (
    CommandPlanner,
    Controller,
    ControllerConfig,
    ControllerModel,
    Decision,
    GoalConfig,
    GoalTracker,
    Outcome,
    PlannerInput,
    State,
)
from jepa_runtime.errors import WorldError
from jepa_runtime.model import Futures, RelativePose, WorldModel
from jepa_runtime.planning import ENERGIES, ActionLimits, EnergyName, LatentFutures, SearchInput, find_search
from jepa_runtime.serving import Candidates, FrameProcessor, ProcessingConfig, Result
from jepa_runtime.sources import Frame, view_name
from jepa_runtime.util import OdometryPose, Pose
from jepa_sim.worlds.interface import HasOdometry, Image, World

# Time from an image to its command, as `make demo` measures it.
AGE_S = 0.006
# Time of the start; stamps of zero are special in messages.
_START_NS = 10**12

# Limits of requested goals, the defaults of the planner node.
_GIVE_UP_AFTER, _FAILURE_TOLERANCE_S = 3, 5.0

# From the latents [T, D] of an image and the goal to action sequences [n, h, A].
Proposer = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
Recorder = Callable[[Frame, NDArray[np.float32]], None]


class Resettable(Protocol):
    """A world that can be reset, by a seed or (None) with its own random numbers."""

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        ...


class InProcessModel:
    """A world model as the search sees it, with the energy of the controller.

    Args:
        model: The open world model.
        energy: Energy by which candidates are compared; None: the bundle's own.
    """

    def __init__(self, model: WorldModel, energy: EnergyName | None) -> None:
        self._model = model
        self._energy = model.energy if energy is None else ENERGIES[energy]

    def predict(self, actions: NDArray[np.float32], latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the latents [K, H, T, D] that follow ``latent`` [T, D]."""
        return self._model.predict(actions, latents=latent).latents

    def energy(self, latents: NDArray[np.float32], goal: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the energies [...] of ``latents`` [..., T, D]."""
        return self._energy(latents, goal)


class SimulatedRobot:
    """World model and controller in simulated time.

    Args:
        model: The open world model.
        config: Settings of the controller; see :meth:`ControllerConfig.fitted`.
        period_s: Time between two images.
        record: Called with each image and the command that follows it; None: nothing is recorded.
        propose: Policy whose action sequences the search starts from; None: there is none.

    Attributes:
        processor: The world model.
        controller: The controller.
        planner: Its planner.
        alarms: Number of alarms so far, by kind.
        calibration: The newest calibration; None: none so far.
        error_samples: Prediction errors so far.

    Raises:
        WorldError: The planner steers, and the model reads no poses, or it needs a policy, and there is none.
    """

    def __init__(
        self,
        model: WorldModel,
        config: ControllerConfig | None = None,
        *,
        period_s: float,
        record: Recorder | None = None,
        propose: Proposer | None = None,
    ) -> None:
        manifest = model.manifest
        self._config = ControllerConfig() if config is None else config
        self._requires = find_search(self._config.search.METHOD).requires
        if "goal_pose" in self._requires and not model.reads_poses:
            raise WorldError(
                f"{model.bundle.path} reads no poses, which steering needs: use another planner, or a bundle "
                "with a relative_pose graph",
                code="sim.no_poses",
            )
        if "proposals" in self._requires and propose is None:
            raise WorldError(
                f"{self._config.search.METHOD} needs a policy, and none was given: pass one with propose, or "
                "use another planner",
                code="sim.no_policy",
            )
        self._propose = propose
        self._config = self._config.fitted(horizon=manifest.horizon, num_samples=model.num_samples)
        self._record = record
        self._period_ns = round(period_s * 1e9)
        self._now_ns = _START_NS
        self._view = 0
        self._candidates: Candidates | None = None
        self._is_requested = False
        self._goal_ns = 0
        self._latent: NDArray[np.float32] | None = None
        self._is_moving = False
        self._goal_pose: RelativePose | None = None
        self._odometry: Pose | None = None
        # The newest image and its result, the command, and the time at which that was sent.
        self._seen: tuple[Frame, Result] | None = None
        self._sent: tuple[NDArray[np.float64], int] | None = None
        self.processor = FrameProcessor(
            model,
            ProcessingConfig(
                candidates=lambda: self._candidates, actuation_delay_s=self._config.actuation_delay_s
            ),
        )
        self.alarms: Counter[str] = Counter()
        self.calibration: Calibration | None = None
        self.error_samples: list[ErrorSample] = []
        # The period of slow cameras must not count as a timeout.
        timeout_s = max(self._config.futures_timeout_s, 2 * period_s)
        self.controller = Controller.from_config(
            replace(self._config, futures_timeout_s=timeout_s), clock=lambda: self._now_ns / 1e9
        )
        self.planner = self.swap_model()

    @property
    def state(self) -> State:
        """State of the last decision."""
        return self.controller.state

    @property
    def stops(self) -> Counter[str]:
        """How often the safety monitor held the robot, by cause."""
        return self.controller.safety_monitor.counts

    @property
    def now_ns(self) -> int:
        """The simulated time."""
        return self._now_ns

    @property
    def latent(self) -> NDArray[np.float32]:
        """Latent [T, D] of the newest image.

        Raises:
            WorldError: There was no image.
        """
        if self._latent is None:
            raise WorldError("the simulated robot has seen no image: step it first", code="sim.no_image")
        return self._latent

    @property
    def _delay_ns(self) -> int:
        return round(self.controller.delay_s * 1e9)

    def swap_model(self) -> CommandPlanner:
        """Plan from scratch, as when another model with the same weights becomes active."""
        manifest, limits = self.processor.model.manifest, ActionLimits.of(self.processor.model.manifest)
        if self._config.max_change < 1:
            max_change = self._config.max_change * (limits.high - limits.low)
            limits = replace(limits, max_change=max_change.astype(np.float32))
        model = ControllerModel.from_config(
            self._config,
            limits,
            step_s=manifest.io.step_s,
            goal_threshold=manifest.goal_threshold,
            action_names=manifest.io.action.names,
            latent_model=InProcessModel(self.processor.model, self._config.energy),
        )
        self.controller.set_model(model)
        self.planner = model.planner
        return self.planner

    def begin_episode(self, world: Resettable, seed: int | None = None) -> None:
        """Reset the world and announce another view with the next image, as a simulator node does."""
        world.reset(seed)
        self._view += 1

    def set_goal(self, goal: Image) -> None:
        """Drive to this goal from the next image on."""
        self._is_requested = False
        self.processor.set_goal("", goal, self._now_ns)

    def request_goal(
        self,
        goal: NDArray[np.float32],
        *,
        is_via: bool,
        threshold: float | None = None,
        pose_is_given: bool = False,
    ) -> GoalTracker:
        """Drive to a latent [T, D] as the action ``~/reach_goal`` does.

        Args:
            goal: The latent.
            is_via: See :class:`GoalConfig`.
            threshold: Energy at or below which it is reached; None: the model's.
            pose_is_given: See :class:`GoalConfig`.
        """
        goal_ns = self._set_latent(goal)
        tracker = GoalTracker(
            GoalConfig(
                goal_ns=goal_ns,
                threshold=threshold,
                timeout_s=None,
                give_up_after=_GIVE_UP_AFTER,
                failure_tolerance_s=_FAILURE_TOLERANCE_S,
                is_via=is_via,
                pose_is_given=pose_is_given,
            ),
            now_s=self._now_ns / 1e9,
        )
        self.controller.start_goal(tracker)
        tracker.is_set = True
        return tracker

    def move_goal(self, goal: NDArray[np.float32], *, is_via: bool) -> None:
        """Continue the requested goal to another latent [T, D], without a stop."""
        self.controller.move_goal(self._set_latent(goal), is_via=is_via)

    def end_goal(self, reason: str) -> None:
        """Cancel the requested goal; the robot stands."""
        self.controller.end_goal(Outcome.CANCELLED, reason)

    def _set_latent(self, goal: NDArray[np.float32]) -> int:
        self._is_requested = True
        self._goal_ns = max(self._now_ns, self._goal_ns + 1)
        self.processor.set_goal("", goal, self._goal_ns)
        return self._goal_ns

    def step(
        self, image: Image, *, goal_pose: RelativePose | None = None, odometry: Pose | None = None
    ) -> NDArray[np.float64]:
        """Return the command for the image of the next period.

        Args:
            image: The image.
            goal_pose: Pose of the goal at the image, if it is known better than the model reads it.
            odometry: Pose of the robot at the image by odometry [3]; None: unknown.
        """
        self.advance()
        command = self.decide(image, goal_pose=goal_pose, odometry=odometry)
        self.finish_image()
        return command

    def advance(self) -> None:
        """Advance the time by one period."""
        self._now_ns += self._period_ns

    def decide(
        self,
        image: Image,
        *,
        delay_s: float = 0.0,
        image_publishers: int = 1,
        goal_pose: RelativePose | None = None,
        odometry: Pose | None = None,
    ) -> NDArray[np.float64]:
        """Return the command for an image that arrives now; :meth:`finish_image` must follow.

        Args:
            image: The image.
            delay_s: Age of its stamp.
            image_publishers: Publishers of the image topic.
            goal_pose: Pose of the goal at the image, if it is known better than the model reads it.
            odometry: Pose of the robot at the image by odometry [3]; None: unknown.
        """
        stamp_ns = self._now_ns - round(delay_s * 1e9)
        self.observe(image, stamp_ns=stamp_ns, goal_pose=goal_pose, odometry=odometry)
        return self._answer(delay_s + AGE_S, self._now_ns + round(AGE_S * 1e9), image_publishers)

    def observe(
        self,
        image: Image,
        *,
        stamp_ns: int,
        goal_pose: RelativePose | None = None,
        odometry: Pose | None = None,
    ) -> None:
        """Predict the futures of an image; :meth:`answer` must follow.

        Args:
            image: The image.
            stamp_ns: When it was taken.
            goal_pose: Pose of the goal at the image, if it is known better than the model reads it.
            odometry: Pose of the robot at the image by odometry [3]; None: unknown.
        """
        self._goal_pose, self._odometry = goal_pose, odometry
        frame = Frame(image, stamp_ns, view_name("camera", self._view), 0)
        result = self.processor.process(frame, self._now_ns)
        self.calibration = result.calibration or self.calibration
        self._latent = result.latent
        self._seen = frame, result

    def answer(self, now_ns: int) -> NDArray[np.float64]:
        """Return the command for the image of :meth:`observe`, in time that went on until ``now_ns``.

        :meth:`finish_image` must follow.
        """
        self._now_ns = now_ns
        stamp_ns = now_ns if self._seen is None else self._seen[0].stamp_ns
        return self._answer((now_ns - stamp_ns) / 1e9, now_ns, 1)

    def _answer(self, age_s: float, sent_ns: int, image_publishers: int) -> NDArray[np.float64]:
        command: NDArray[np.float64] = np.zeros(len(self.processor.model.manifest.io.action.names))
        if self._seen is None:
            return command
        frame, result = self._seen
        if result.futures is not None:
            futures = self._planner_input(result, result.futures, image_publishers)
            decision = self.controller.update(futures, age_s=age_s)
            decision = self._run_extra_iterations(decision, futures)
            if decision.candidates is not None:
                self._candidates = Candidates(
                    np.asarray(decision.candidates, np.float32),
                    self._config.search.METHOD,
                    frame.stamp_ns,
                    self._delay_ns,
                )
            if decision.command is not None:
                command = np.asarray(decision.command, np.float64)
            self.controller.set_command(command)
        self._sent = command, sent_ns
        return command

    def watch(self, now_ns: int) -> bool:
        """Stop the robot if the data is stale, as the planner node does; return whether it was stopped."""
        self._now_ns = now_ns
        self.controller.check_timeouts()
        if self.controller.may_move or not self._is_moving:
            return False
        self.stop(now_ns)
        return True

    def stop(self, now_ns: int) -> None:
        """Note that the robot was commanded to stop."""
        self._is_moving = False
        self.processor.add_action(now_ns, np.zeros(len(self.processor.model.manifest.io.action.names)))

    def finish_image(self) -> None:
        """Compare the newest image with its prediction, as the robot does after it has sent the command."""
        if self._seen is None or self._sent is None:
            return
        (frame, result), (command, sent_ns) = self._seen, self._sent
        self._seen = self._sent = None
        self._is_moving = bool(command.any())
        self.processor.add_action(sent_ns, command)
        result = self.processor.with_surprise(result)
        if result.executed is not None:
            self.controller.add_surprise(
                result.surprising,
                executed=result.executed,
                response=result.response,
                discontinuous=result.discontinuous,
            )
        calibrated = self.processor.update_calibration(result)
        if calibrated is not None:
            self.alarms.update(alarm.kind for alarm in calibrated.alarms if alarm.end_ns is None)
            if calibrated.error_sample is not None:
                self.error_samples.append(calibrated.error_sample)
        if self._record is not None:
            self._record(frame, command.astype(np.float32))

    def _planner_input(self, result: Result, futures: Futures, image_publishers: int) -> PlannerInput:
        if result.current_energy is None:
            raise WorldError("the simulated robot has no goal: set one first", code="sim.no_goal")
        is_own = result.candidates.source == self._config.search.METHOD
        return PlannerInput(
            stamp_ns=result.stamp_ns,
            goal_stamp_ns=result.goal_stamp_ns,
            goal_requested=self._is_requested,
            current_energy=result.current_energy,
            energies=self._energies(futures),
            candidates_stamp_ns=result.candidates.stamp_ns if is_own else 0,
            history_reset="" if result.reset is None else result.reset.value,
            image_publishers=image_publishers,
            goal_pose=self._goal_pose or result.goal_pose,
            odometry=None if self._odometry is None else OdometryPose.of(self._odometry),
            latents=self._latents(futures),
            proposals=self._proposals(),
        )

    def _latents(self, futures: Futures) -> LatentFutures | None:
        start = self._start("latents")
        if start is None:
            return None
        return LatentFutures(latents=futures.latents, current=start[0], goal=start[1])

    def _proposals(self) -> NDArray[np.float32] | None:
        start = self._start("proposals")
        return None if start is None or self._propose is None else self._propose(*start)

    def _start(self, needed: SearchInput) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return the latents [T, D] from which futures start and of the goal, if the search requires this."""
        if needed not in self._requires:
            return None
        context = self.processor.prediction_context("", delay_ns=self._delay_ns)
        if context is None or context.goal is None:
            return None
        return context.context.latents[-1], context.goal

    def _run_extra_iterations(self, decision: Decision, futures: PlannerInput) -> Decision:
        context = None
        if self._config.extra_iterations:
            context = self.processor.prediction_context("", delay_ns=self._delay_ns)
        for _ in range(self._config.extra_iterations if context is not None else 0):
            if decision.candidates is None or context is None:
                break
            candidates = np.asarray(decision.candidates, np.float32)
            predicted = self.processor.predict(candidates, context.context, context.goal)
            decision = self.controller.refine(
                replace(
                    futures,
                    energies=self._energies(predicted),
                    candidates_stamp_ns=futures.stamp_ns,
                    latents=self._latents(predicted),
                )
            )
        return decision

    def _energies(self, futures: Futures) -> NDArray[np.float32]:
        context = None if self._config.energy is None else self.processor.prediction_context("")
        if context is not None and context.goal is not None and self._config.energy is not None:
            return ENERGIES[self._config.energy](futures.latents, context.goal)
        if futures.energies is None:
            raise WorldError("the simulated robot has no goal: set one first", code="sim.no_goal")
        return futures.energies


class RobotPolicy:
    """A policy for :func:`~jepa_sim.closed_loop.episodes.run_episode`: a new robot for one episode.

    Args:
        model: The open world model.
        world: The world, which was just reset.
        config: Settings of the controller.
        propose: See :class:`SimulatedRobot`.
    """

    def __init__(
        self, model: WorldModel, world: World, config: ControllerConfig, propose: Proposer | None = None
    ) -> None:
        period_s = model.manifest.io.step_s / config.images_per_step
        self._robot = SimulatedRobot(model, config, period_s=period_s, propose=propose)
        self._robot.set_goal(world.render_goal())
        self._world = world if isinstance(world, HasOdometry) else None
        # Odometry of the images that have not arrived, by their stamps.
        self._odometry: dict[int, Pose] = {}

    def __call__(self, image: Image) -> NDArray[np.float64] | None:
        self._robot.advance()
        odometry = None if self._world is None else self._world.read_odometry()
        command = self._robot.decide(image, odometry=odometry)
        return None if self._robot.state is State.REACHED else command

    def see(self, image: Image, stamp_ns: int) -> None:
        """Note where the robot is by odometry when an image is taken."""
        if self._world is not None:
            self._odometry[stamp_ns] = self._world.read_odometry()

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        """See :meth:`SimulatedRobot.observe`."""
        odometry = self._odometry.get(stamp_ns)
        self._odometry = {stamp: pose for stamp, pose in self._odometry.items() if stamp > stamp_ns}
        self._robot.observe(image, stamp_ns=_START_NS + stamp_ns, odometry=odometry)

    def answer(self, now_ns: int) -> NDArray[np.float64] | None:
        """Return the command, or None if the goal is reached; see :meth:`SimulatedRobot.answer`."""
        command = self._robot.answer(_START_NS + now_ns)
        return None if self._robot.state is State.REACHED else command

    def watch(self, now_ns: int) -> bool:
        """See :meth:`SimulatedRobot.watch`."""
        return self._robot.watch(_START_NS + now_ns)

    def swap_model(self, now_ns: int) -> None:
        """Stop, and continue with another model; see :meth:`SimulatedRobot.swap_model`."""
        self._robot.swap_model()
        self._robot.stop(_START_NS + now_ns)

    def finish_image(self) -> None:
        """See :meth:`SimulatedRobot.finish_image`."""
        self._robot.finish_image()
