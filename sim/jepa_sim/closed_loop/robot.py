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
from jepa_runtime.control import Controller, ControllerConfig, ControllerModel, Decision, PlannerInput, State
from jepa_runtime.errors import WorldError
from jepa_runtime.model import Futures, WorldModel
from jepa_runtime.planning import ENERGIES, ActionLimits
from jepa_runtime.serving import Candidates, FrameProcessor, ProcessingConfig, Result
from jepa_runtime.sources import Frame, view_name
from jepa_sim.worlds.interface import Image, World

# Time from an image to its command, as `make demo` measures it.
AGE_S = 0.006

Recorder = Callable[[Frame, NDArray[np.float32]], None]


class Resettable(Protocol):
    """A world that can be reset, by a seed or (None) with its own random numbers."""

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        ...


class SimulatedRobot:
    """World model and controller in simulated time.

    Args:
        model: The open world model.
        config: Settings of the controller; see :meth:`ControllerConfig.fitted`.
        period_s: Time between two images.
        record: Called with each image and the command that follows it; None: nothing is recorded.

    Attributes:
        processor: The world model.
        controller: The controller.
        planner: Its planner.
        alarms: Number of alarms so far, by kind.
        calibration: The newest calibration; None: none so far.
        error_samples: Prediction errors so far.
    """

    def __init__(
        self,
        model: WorldModel,
        config: ControllerConfig | None = None,
        *,
        period_s: float,
        record: Recorder | None = None,
    ) -> None:
        manifest = model.manifest
        self._config = ControllerConfig() if config is None else config
        self._config = self._config.fitted(horizon=manifest.horizon, num_samples=model.num_samples)
        self._record = record
        self._period_ns = round(period_s * 1e9)
        self._now_ns = 10**12
        self._view = 0
        self._candidates: Candidates | None = None
        self._pending: tuple[Frame, Result, NDArray[np.float64]] | None = None
        self.processor = FrameProcessor(model, ProcessingConfig(candidates=lambda: self._candidates))
        self.alarms: Counter[str] = Counter()
        self.calibration: Calibration | None = None
        self.error_samples: list[ErrorSample] = []
        limits = ActionLimits.of(manifest)
        if self._config.max_change < 1:
            max_change = self._config.max_change * (limits.high - limits.low)
            limits = replace(limits, max_change=max_change.astype(np.float32))
        controller_model = ControllerModel.from_config(
            self._config, limits, step_s=manifest.io.step_s, goal_threshold=manifest.goal_threshold
        )
        self.planner = controller_model.planner
        # The period of slow cameras must not count as a timeout.
        timeout_s = max(self._config.futures_timeout_s, 2 * period_s)
        self.controller = Controller.from_config(
            replace(self._config, futures_timeout_s=timeout_s), clock=lambda: self._now_ns / 1e9
        )
        self.controller.set_model(controller_model)

    @property
    def state(self) -> State:
        """State of the last decision."""
        return self.controller.state

    @property
    def stops(self) -> Counter[str]:
        """How often the safety monitor held the robot, by cause."""
        return self.controller.safety_monitor.counts

    def begin_episode(self, world: Resettable, seed: int | None = None) -> None:
        """Reset the world and announce another view with the next image, as a simulator node does."""
        world.reset(seed)
        self._view += 1

    def set_goal(self, goal: Image) -> None:
        """Drive to this goal from the next image on."""
        self.processor.set_goal("", goal, self._now_ns)

    def step(self, image: Image) -> NDArray[np.float64]:
        """Return the command for the image of the next period."""
        self.advance()
        command = self.decide(image)
        self.finish_image()
        return command

    def advance(self) -> None:
        """Advance the time by one period."""
        self._now_ns += self._period_ns

    def decide(self, image: Image, *, delay_s: float = 0.0, image_publishers: int = 1) -> NDArray[np.float64]:
        """Return the command for an image that arrives now; :meth:`finish_image` must follow.

        Args:
            image: The image.
            delay_s: Age of its stamp.
            image_publishers: Publishers of the image topic.
        """
        stamp_ns = self._now_ns - round(delay_s * 1e9)
        frame = Frame(image, stamp_ns, view_name("camera", self._view), 0)
        result = self.processor.process(frame, self._now_ns)
        self.calibration = result.calibration or self.calibration
        command: NDArray[np.float64] = np.zeros(len(self.processor.model.manifest.io.action.names))
        if result.futures is not None:
            futures = self._planner_input(result, result.futures, image_publishers)
            decision = self.controller.update(futures, age_s=delay_s + AGE_S)
            decision = self._run_extra_iterations(decision, futures)
            if decision.candidates is not None:
                self._candidates = Candidates(np.asarray(decision.candidates, np.float32), "cem", stamp_ns)
            if decision.command is not None:
                command = np.asarray(decision.command, np.float64)
            self.controller.set_command(command)
        self._pending = frame, result, command
        return command

    def finish_image(self) -> None:
        """Compare the newest image with its prediction, as the robot does after it has sent the command."""
        if self._pending is None:
            return
        (frame, result, command), self._pending = self._pending, None
        self.processor.add_action(self._now_ns + round(AGE_S * 1e9), command)
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
        is_own = result.candidates.source == "cem"
        return PlannerInput(
            stamp_ns=result.stamp_ns,
            goal_stamp_ns=result.goal_stamp_ns,
            current_energy=result.current_energy,
            energies=self._energies(futures),
            candidates_stamp_ns=result.candidates.stamp_ns if is_own else 0,
            history_reset="" if result.reset is None else result.reset.value,
            image_publishers=image_publishers,
        )

    def _run_extra_iterations(self, decision: Decision, futures: PlannerInput) -> Decision:
        context = self.processor.prediction_context("") if self._config.extra_iterations else None
        for _ in range(self._config.extra_iterations if context is not None else 0):
            if decision.candidates is None or context is None:
                break
            candidates = np.asarray(decision.candidates, np.float32)
            predicted = self.processor.predict(candidates, context.context, context.goal)
            decision = self.controller.refine(
                replace(futures, energies=self._energies(predicted), candidates_stamp_ns=futures.stamp_ns)
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
    """

    def __init__(self, model: WorldModel, world: World, config: ControllerConfig) -> None:
        period_s = model.manifest.io.step_s / config.images_per_step
        self._robot = SimulatedRobot(model, config, period_s=period_s)
        self._robot.set_goal(world.render_goal())

    def __call__(self, image: Image) -> NDArray[np.float64] | None:
        self._robot.advance()
        command = self._robot.decide(image)
        return None if self._robot.state is State.REACHED else command

    def finish_image(self) -> None:
        """See :meth:`SimulatedRobot.finish_image`."""
        self._robot.finish_image()
