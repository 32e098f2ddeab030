"""Settings of the controller."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from jepa_runtime.planning.cem import CEMConfig
from jepa_runtime.planning.energies import ENERGIES, EnergyName, ReductionName
from jepa_runtime.planning.search_method import SearchSettings


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """Settings of the controller. The defaults are those of the planner node.

    Attributes:
        search: Settings of a registered search, see :mod:`jepa_runtime.planning.registry`. Steering needs a
            model that reads poses, and actions ``linear.x`` and ``angular.z``.
        seed: Seed of the candidates.
        energy: Energy by which candidates are compared; None: the bundle's own. Whether the goal is reached
            is always decided by the bundle's own energy.
        reduction: How the energies of a candidate become its cost, see
            :func:`~jepa_runtime.planning.energies.plan_costs`.
        discount: Discount of the reduction.
        images_per_step: Images per model step. Each image brings one search iteration.
        extra_iterations: Further search iterations with the same image. They need a caller that evaluates
            candidates itself, such as a simulation.
        max_change: Largest change of each action component within a model step, as a proportion of its range;
            1: any.
        reached_after: Consecutive images at or below the goal threshold after which the goal is reached.
        stuck_after_s: Time without progress after which the robot is stuck.
        recovery_s: Duration of the recovery motion of a stuck robot; 0: none.
        recovery_speed: Proportion of the action limits used by the recovery motion.
        compensate_latency: Plan from the state that the model predicts for the moment when the command takes
            effect, instead of the image; see :mod:`jepa_runtime.serving.latency_compensation`.
        actuation_delay_s: Time from a command to its effect on the robot, by which the pose of the goal is
            advanced further; futures are shifted by the model, see
            :class:`~jepa_runtime.serving.frame_processor.ProcessingConfig`.
        futures_timeout_s: Age of the newest futures, or of their image, at which the robot is stopped.
        surprise_window_s: Window over which surprising and discontinuous images are counted.
        surprise_ratio: Proportion of surprising images in the window above which the robot is stopped; 1: it
            is never stopped for that.
        frozen_after_s: Commanded motion, in seconds at full effort, that the images may fail to show before
            the robot is stopped; 0: the check is off.
        goal_timeout_s: Time after which a latched goal expires; 0: never.
        stop_timeout_s: Time without a stop message after which the robot is stopped; 0: never.

    Raises:
        ValueError: A count or the delay is out of range, or the energy is unknown.
    """

    search: SearchSettings = field(default_factory=CEMConfig)
    seed: int = 0
    energy: EnergyName | None = None
    reduction: ReductionName = "sum"
    discount: float = 0.99
    images_per_step: int = 6
    extra_iterations: int = 0
    max_change: float = 1.0
    reached_after: int = 3
    stuck_after_s: float = 2.0
    recovery_s: float = 0.0
    recovery_speed: float = 0.3
    compensate_latency: bool = True
    actuation_delay_s: float = 0.0
    futures_timeout_s: float = 0.4
    surprise_window_s: float = 1.0
    surprise_ratio: float = 0.8
    frozen_after_s: float = 0.8
    goal_timeout_s: float = 60.0
    stop_timeout_s: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("images_per_step", 1), ("extra_iterations", 0), ("reached_after", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.actuation_delay_s < math.inf:
            raise ValueError(f"actuation_delay_s must be at least 0, got {self.actuation_delay_s}")
        if self.energy is not None and self.energy not in ENERGIES:
            raise ValueError(f"energy must be {', '.join(ENERGIES)} or None, got {self.energy!r}")

    @property
    def iterations_per_step(self) -> int:
        """Search iterations per model step."""
        return self.extra_iterations or self.images_per_step

    def fitted(self, *, horizon: int, num_samples: int | None = None) -> ControllerConfig:
        """Return the settings reduced to what a model predicts.

        Args:
            horizon: Steps that the model predicts.
            num_samples: Candidates that it predicts at once; None: any number.
        """
        return replace(self, search=self.search.fitted(horizon=horizon, num_samples=num_samples))
