"""A controller under test, with its clock and its futures."""

from __future__ import annotations

import numpy as np

from jepa_runtime.control.controller import Controller, ControllerModel
from jepa_runtime.control.goal_tracker import GoalConfig, GoalTracker, Outcome
from jepa_runtime.control.receding_horizon import PlannerInput, RecedingHorizonPlanner, State
from jepa_runtime.control.safety_monitor import SafetyMonitor
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.telemetry.diagnostics import Level

__all__ = ["Level", "Outcome", "State"]

FRAME_NS, STEP_S = 33_000_000, 0.2
LATCHED_NS, OTHER_NS = 5, 6
SAMPLES, HORIZON = 8, 3
LIMITS = ActionLimits(
    low=np.array([-1, -0.5], np.float32),
    high=np.array([1, 1], np.float32),
    max_norm=1.0,
    max_change=np.array([0.5, 0.5], np.float32),
)
TIMEOUT_S, FAILURE_TOLERANCE_S = 0.5, 2.0


class Search(CEM):
    """A search that can be made to plan forbidden actions, or to fail."""

    broken = ""

    def tell(self, costs):
        if self.broken == "fails":
            raise RuntimeError("no memory")
        super().tell(costs)
        if self.broken == "nan":
            self.mean = np.full_like(self.mean, np.nan)
        elif self.broken == "leaps":
            self.mean = self.mean + np.float32(0.7)


class World:
    """A controller, its clock and its futures."""

    def __init__(self, *, per_step: bool = False, frozen_after_s: float = 0.0, **timeouts: float) -> None:
        self.per_step = per_step
        self.now_s = 100.0
        self.monitor = SafetyMonitor(
            surprise_window_s=0.1, surprise_ratio=0.6, frozen_after_s=frozen_after_s, clock=self.clock
        )
        self.controller = Controller(self.monitor, timeout_s=TIMEOUT_S, clock=self.clock, **timeouts)
        self.frame = 0
        self.energy = 10.0
        self.energies: np.ndarray | None = None
        self.sought: int | None = LATCHED_NS
        self.sought_by_service = False
        self.asked_ns, self.candidates = 0, None
        self.answers = True
        self.decision = None
        self.last_command = np.zeros(2)
        self.reaches: list[GoalTracker] = []
        self.swap_model()

    def clock(self) -> float:
        return self.now_s

    @property
    def now_ns(self) -> int:
        """Return the time by the clock of stamps."""
        return 10**12 + self.frame * FRAME_NS

    def receive_stop_message(self, *, stop: bool) -> None:
        self.controller.set_stop(stop, now_ns=self.now_ns)

    def swap_model(self) -> None:
        self.search = Search(CEMConfig(num_samples=SAMPLES, horizon=HORIZON, topk=2), LIMITS, seed=0)
        planner = RecedingHorizonPlanner(
            self.search,
            step_s=STEP_S,
            goal_threshold=1.0,
            reached_after=2,
            stuck_after_s=1.0,
            recovery_s=0.6,
            recovery_speed=0.3,
        )
        model = ControllerModel(
            planner=planner, limits=LIMITS, step_s=STEP_S, goal_threshold=1.0, per_step=self.per_step
        )
        self.controller.set_model(model)

    def image(self, *, age_s: float = 0.01):
        """Pass futures that answer the last candidates; errors are reported as the node reports them."""
        self.now_s += FRAME_NS / 1e9
        self.frame += 1
        stamp_ns = self.now_ns
        question = self.candidates
        energies = np.ones((SAMPLES, HORIZON)) if question is None else -np.cumsum(question[..., 0], axis=1)
        futures = PlannerInput(
            stamp_ns=stamp_ns,
            goal_stamp_ns=self.sought,
            current_energy=self.energy,
            energies=energies.astype(np.float32) if self.energies is None else self.energies,
            candidates_stamp_ns=self.asked_ns if self.answers else 0,
            goal_requested=self.sought_by_service
            or any(r.is_set and r.config.goal_ns == self.sought for r in self.reaches),
        )
        try:
            self.decision = self.controller.update(futures, age_s=age_s)
            self.last_command = self.obey(self.decision.command, stamp_ns)
        except RuntimeError as error:
            self.controller.report_fault(error)
            self.decision = None
            return None
        if self.decision.candidates is not None:
            self.asked_ns, self.candidates = stamp_ns, self.decision.candidates
        self.controller.set_command(self.last_command)
        return self.decision

    def obey(self, command, stamp_ns):
        """Return the command that the robot executes."""
        return np.zeros(2) if command is None else command

    def images(self, count: int = 5, **kwargs):
        for _ in range(count):
            decision = self.image(**kwargs)
        return decision

    def begin(self, goal_ns: int = OTHER_NS, *, is_set: bool = True, **config) -> GoalTracker:
        inputs = {
            "threshold": None,
            "timeout_s": None,
            "give_up_after": 2,
            "failure_tolerance_s": FAILURE_TOLERANCE_S,
        } | config
        reach = GoalTracker(GoalConfig(goal_ns=goal_ns, **inputs), now_s=self.now_s)
        reach.is_set = is_set
        self.controller.start_goal(reach)
        self.reaches.append(reach)
        return reach
