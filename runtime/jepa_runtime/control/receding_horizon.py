"""Receding-horizon planning: one search iteration per image (real-time iteration).

Futures that answer the last candidates update the search distribution, and new candidates are proposed. The
first action of the mean is the command. As time passes the plan is shifted by one step every ``step_s``; with
images a step or more apart, only if the newest image did not evaluate it. Without answers the plan ends one
step after its horizon, which bounds the latency of an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.goal_checker import GoalChecker
from jepa_runtime.control.progress_checker import ProgressChecker
from jepa_runtime.control.recovery import BlockedDirections, RecoveryMotion
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.energies import ReductionName, plan_costs
from jepa_runtime.planning.search import LatentFutures
from jepa_runtime.util.odometry_history import OdometryPose

# Candidates may still be under evaluation when the next futures arrive. After this many images without an
# answer they are lost.
_MAX_IMAGES_WITHOUT_ANSWER = 5


class State(IntEnum):
    """State of the planner, as in jepa_msgs/PlannerStatus."""

    IDLE = 0
    SEEKING = 1
    REACHED = 2
    STUCK = 3
    HELD = 4


class Search(Protocol):
    """A search distribution over action sequences, such as :class:`jepa_runtime.planning.cem.CEM`."""

    mean: NDArray[np.float32]
    executed: NDArray[np.float32] | None

    def ask(self) -> NDArray[np.float32]: ...
    def tell(self, costs: NDArray[np.floating]) -> None: ...
    def shift(self, steps: int = 1, *, executed: NDArray[np.float32] | None = None) -> None: ...
    def reset(self) -> None: ...
    def directions(self, speed: float) -> NDArray[np.float32]: ...
    def set_goal_pose(self, pose: RelativePose | None) -> None: ...
    def pose_ratio(self, pose: RelativePose | None) -> float: ...
    def set_proposals(self, proposals: NDArray[np.float32] | None) -> None: ...
    def energies(
        self, energies: NDArray[np.float32], futures: LatentFutures | None
    ) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class PlannerInput:
    """The futures of one image, as far as the planner needs them.

    Attributes:
        stamp_ns: Stamp of the image.
        goal_stamp_ns: Stamp of the goal; None: there is no goal.
        current_energy: Energy of the image to the goal.
        energies: Energies [K, H] of the candidates.
        candidates_stamp_ns: Stamp of the image whose :attr:`Decision.candidates` were evaluated; 0: others
            were.
        goal_requested: The goal was set by a request; otherwise it is latched.
        history_reset: Why the history was reset with this image; empty: it was not.
        image_publishers: Publishers of the image topic; 0: unknown.
        goal_pose: Pose of the goal in the frame of the image, and of the command that answers it for
            :class:`RecedingHorizonPlanner`; None: the model did not read it. Only steering uses it.
        start_ns: Time at which the futures start; None: at the image. Only a policy's planner uses it.
        odometry: Pose of the robot at the image by odometry; None: unknown. Only steering uses it.
        latents: The predicted latents; None: the caller has none. Only searches that require them use them.
        proposals: Action sequences [n, h, A] of a policy for the image; None: there is no policy.
    """

    stamp_ns: int
    goal_stamp_ns: int | None
    current_energy: float
    energies: NDArray[np.float32]
    candidates_stamp_ns: int
    goal_requested: bool = False
    history_reset: str = ""
    image_publishers: int = 0
    goal_pose: RelativePose | None = None
    odometry: OdometryPose | None = None
    start_ns: int | None = None
    latents: LatentFutures | None = None
    proposals: NDArray[np.float32] | None = None

    @property
    def is_unusable(self) -> bool:
        """Whether the energy of the image to its goal, or of every candidate, is not finite."""
        if self.goal_stamp_ns is None:
            return False
        return not (math.isfinite(self.current_energy) and np.isfinite(self.energies).all(axis=1).any())


@dataclass(frozen=True)
class Decision:
    """What the robot does next.

    Attributes:
        state: State of the planner.
        command: Action [A] to execute; None: stand.
        candidates: Candidates [K, H, A] to evaluate next; None: the last ones are still under evaluation.
    """

    state: State
    command: NDArray[np.floating] | None
    candidates: NDArray[np.floating] | None


class RecedingHorizonPlanner:
    """Decides what to do from the futures of each image.

    Args:
        search: The distribution; owned by the planner from now on.
        step_s: Duration of a model step.
        goal_threshold: Energy at or below which an image counts towards the goal.
        reached_after: Consecutive such images after which the goal is reached.
        stuck_after_s: Time without progress after which the robot is stuck. It then plans from scratch, after
            a recovery motion. Time in which it was stopped, had no plan, or recovered does not count.
        recovery_s: Duration of the recovery motion, a random direction in which the model predicts that the
            energy to the goal hardly rises; 0: none.
        recovery_speed: Proportion of the action limits used by the recovery motion.
        reduction: How the energies of a candidate become its cost.
        discount: Discount of the reduction.

    Attributes:
        last_command: Action [A] that was sent to the robot last. The caller sets it: it may differ from the
            decision.
        iterations: Search iterations so far.
        stuck_count: How often the robot was stuck so far.
    """

    def __init__(
        self,
        search: Search,
        *,
        step_s: float,
        goal_threshold: float,
        reached_after: int,
        stuck_after_s: float,
        recovery_s: float,
        recovery_speed: float,
        reduction: ReductionName = "sum",
        discount: float = 0.99,
    ) -> None:
        self._search = search
        self._step_ns = round(step_s * 1e9)
        self._stuck_after_ns = round(stuck_after_s * 1e9)
        self._recovery_speed = recovery_speed
        self._reduction, self._discount = reduction, discount
        self.iterations = self.stuck_count = 0
        self._goal_checker = GoalChecker(goal_threshold, images=reached_after)
        self._progress_checker = ProgressChecker(self._stuck_after_ns)
        self._recovery = RecoveryMotion(round(recovery_s * 1e9))
        self._blocked = BlockedDirections(self._stuck_after_ns)
        self._newest_ns = 0
        # Stamp of the goal to which the present plan continues.
        self._continued_ns: int | None = None
        self._begin(None)

    @property
    def goal_threshold(self) -> float:
        """Energy at or below which an image counts towards the goal."""
        return self._goal_checker.threshold

    @goal_threshold.setter
    def goal_threshold(self, threshold: float) -> None:
        self._goal_checker.threshold = threshold

    @property
    def horizon_s(self) -> float:
        """Duration of a plan."""
        return len(self._search.mean) * self._step_ns / 1e9

    @property
    def executed(self) -> NDArray[np.float32] | None:
        """Action [A] executed in the previous step, from which the next one may differ by ``max_change``."""
        return self._search.executed

    @property
    def obstacle(self) -> str:
        """Why there has been no plan for longer than the robot may be without progress; empty: there was."""
        if self._planless_ns <= self._stuck_after_ns:
            return ""
        return (
            "no futures of the planner's candidates arrived within a model step "
            f"({self._step_ns / 1e9:g} s) and five images: the world model is too slow, or evaluates those "
            "of another planner"
        )

    def avoid(self, action: NDArray[np.floating]) -> None:
        """Plan around the direction of ``action`` [A], which did not move the robot as predicted.

        See :meth:`BlockedDirections.add`.
        """
        self._blocked.add(action)

    def confirm_motion(self) -> None:
        """Note that images show the robot's motion."""
        self._blocked.confirm_motion()

    def continue_to(self, goal_ns: int) -> None:
        """Keep the plan when the goal with this stamp becomes active: it lies beyond the present one."""
        self._continued_ns = goal_ns

    def restart(self) -> None:
        """Discard the plan, since the robot was stopped.

        The progress so far is retained: a robot that is stopped again and again in front of an obstacle that
        its model does not see becomes stuck.
        """
        self._discard_plan(self._goal_ns)

    def update(self, futures: PlannerInput) -> Decision:
        """Process the futures of a new image and decide."""
        if futures.goal_stamp_ns is None:
            self._begin(None)
            return Decision(State.IDLE, None, None)
        if futures.goal_stamp_ns == self._continued_ns != self._goal_ns:
            self._continue(futures.goal_stamp_ns)
        # If the clock was set back, earlier stamps mean nothing.
        if futures.goal_stamp_ns != self._goal_ns or futures.stamp_ns < self._newest_ns:
            self._begin(futures.goal_stamp_ns)
        elapsed_ns = futures.stamp_ns - self._newest_ns if self._newest_ns else 0
        self._newest_ns = futures.stamp_ns
        was_reached = self._goal_checker.is_reached
        if self._goal_checker.update(futures.current_energy, self._search.pose_ratio(futures.goal_pose)):
            self._state = State.REACHED
            return Decision(State.REACHED, None, None)
        if was_reached:
            self._begin(self._goal_ns)
        self._learn_and_shift(futures, elapsed_ns)
        self._check_progress(futures, elapsed_ns)
        self._search.set_goal_pose(futures.goal_pose)
        self._search.set_proposals(futures.proposals)
        return self._decide(futures)

    def refine(self, futures: PlannerInput) -> Decision:
        """Process further futures of the same image, which answer the last candidates, and decide again."""
        self._learn(futures)
        return self._decide(futures)

    def _begin(self, goal_ns: int | None) -> None:
        self._progress_checker.reset()
        self._blocked.reset()
        self._discard_plan(goal_ns)

    def _discard_plan(self, goal_ns: int | None) -> None:
        self.last_command = self._search.executed = np.zeros_like(self._search.mean[0])
        self._search.reset()
        self._goal_ns = goal_ns
        self._state = State.SEEKING
        self._goal_checker.reset()
        self._planned_until_ns = self._planless_ns = 0
        # Stamp of the image with which candidates were proposed (0: none are under evaluation), their number,
        # and how many images have come since.
        self._proposed_ns, self._proposed_count, self._images_without_answer = 0, 0, 0
        self._plan_ns: int | None = None
        self._candidates: NDArray[np.floating] | None = None
        self._recovery.reset()
        self._newest_ns = 0

    def _continue(self, goal_ns: int) -> None:
        self._goal_ns, self._state = goal_ns, State.SEEKING
        self._progress_checker.reset()
        self._goal_checker.reset()

    def _decide(self, futures: PlannerInput) -> Decision:
        recovery_action = self._recovery.action(futures.stamp_ns)
        if recovery_action is not None:
            self._search.executed = recovery_action
            return Decision(self._state, recovery_action, self._next_candidates(futures))
        command = np.array(self._search.mean[0]) if futures.stamp_ns < self._planned_until_ns else None
        return Decision(self._state, command, self._next_candidates(futures))

    def _learn_and_shift(self, futures: PlannerInput, elapsed_ns: int) -> None:
        if self._plan_ns is None:
            self._plan_ns = futures.stamp_ns
        # An image that is slightly early belongs to the step that it begins, as in the world model.
        early_ns = self._step_ns // 8
        steps = (futures.stamp_ns - self._plan_ns + early_ns) // self._step_ns
        learned = self._learn(futures)
        if steps > 0:
            # A plan that this image evaluated begins with it. With a fast camera the next image soon
            # evaluates the shifted plan; with a step between images, the robot would execute the second
            # action.
            begins_here = learned and elapsed_ns + early_ns >= self._step_ns
            self._search.shift(0 if begins_here else int(steps), executed=self.last_command)
            self._plan_ns += int(steps) * self._step_ns
            # Candidates proposed before the shift no longer belong to the distribution.
            self._proposed_ns = 0

    def _learn(self, futures: PlannerInput) -> bool:
        """Process the answer to the last candidates; return whether it updated the search."""
        answers = self._proposed_ns != 0 and futures.candidates_stamp_ns == self._proposed_ns
        if not answers or len(futures.energies) != self._proposed_count:
            return False
        if self._recovery.awaits_futures:
            self._proposed_ns = 0
            if self._recovery.start(futures.energies, futures.current_energy, futures.stamp_ns):
                self._progress_checker.grant(self._recovery.duration_ns)
            return False
        self._search.tell(self._costs(self._search.energies(futures.energies, futures.latents)))
        self._planned_until_ns = futures.stamp_ns + (len(self._search.mean) + 1) * self._step_ns
        self._proposed_ns = 0
        self.iterations += 1
        return True

    def _costs(self, energies: NDArray[np.float32]) -> NDArray[np.floating]:
        costs = plan_costs(energies, self._reduction, discount=self._discount)
        return costs if self._candidates is None else self._blocked.costs(costs, self._candidates[:, 0])

    def _check_progress(self, futures: PlannerInput, elapsed_ns: int) -> None:
        if futures.stamp_ns < max(self._planned_until_ns, self._recovery.until_ns):
            self._planless_ns = 0
            self._progress_checker.add_time(elapsed_ns)
            self._blocked.add_time(elapsed_ns)
        else:
            self._planless_ns += elapsed_ns
        if self._progress_checker.makes_progress(futures.current_energy):
            self._state = State.SEEKING
        elif self._progress_checker.is_stuck(futures.current_energy):
            self._search.executed = self.last_command
            self._search.reset()
            self._state, self._planned_until_ns, self._proposed_ns = State.STUCK, 0, 0
            self._recovery.request()
            self.stuck_count += 1

    def _next_candidates(self, futures: PlannerInput) -> NDArray[np.floating] | None:
        self._images_without_answer = self._images_without_answer + 1 if self._proposed_ns else 0
        if self._proposed_ns and self._images_without_answer < _MAX_IMAGES_WITHOUT_ANSWER:
            return None
        if self._recovery.is_requested:
            candidates = self._search.directions(self._recovery_speed)
            self._recovery.propose(candidates)
        else:
            candidates = self._search.ask()
            self._recovery.propose(None)
        self._proposed_ns, self._proposed_count = futures.stamp_ns, len(candidates)
        self._images_without_answer = 0
        self._candidates = candidates
        return candidates
