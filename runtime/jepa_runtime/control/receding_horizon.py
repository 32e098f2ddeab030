"""Seeking a goal with the futures that come in: one CEM iteration per image (real-time iteration), decided
without ROS.

Every futures message that answers the last question updates the distribution, and a new question is asked.
The first action of the mean is the command. As time passes the plan is shifted, one step each ``step_s``;
with images that far apart, only if the newest did not judge it. Without answers it ends a step after its
horizon: that long an answer may take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.progress_checker import PROGRESS
from jepa_runtime.planning.energies import plan_costs

# Own candidates may still be under way when the next futures arrive; after this many without them they are
# lost.
_ANSWER_WITHIN = 5
# A reached goal is left again only by a clear margin, so that noise does not set the robot in motion.
_LEAVE_FACTOR = 2.0
# A recovery motion is harmless where the energy to the goal is predicted to rise by at most this proportion.
_HARMLESS = 0.1


class State(IntEnum):
    """As in jepa_msgs/PlannerStatus."""

    IDLE = 0
    SEEKING = 1
    REACHED = 2
    STUCK = 3
    HELD = 4


class Search(Protocol):
    """A search distribution over action sequences (:class:`jepa_runtime.planning.cem.CEM`)."""

    mean: NDArray[np.float32]
    executed: NDArray[np.float32] | None

    def ask(self) -> NDArray[np.float32]: ...
    def tell(self, costs: NDArray[np.floating]) -> None: ...
    def shift(self, steps: int = 1, *, executed: NDArray[np.float32] | None = None) -> None: ...
    def reset(self) -> None: ...
    def directions(self, speed: float) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class Futures:
    """What a futures message says: the image's stamp, the goal's (None: no goal) and whether it was asked for
    (else it is latched), the present energy, the energies [K, H] of the candidates, and the stamp of the
    question they answer (0: nobody's); why the history was reset with the image, and how many publishers its
    topic has (0: not known)."""

    stamp_ns: int
    goal_stamp_ns: int | None
    current_energy: float
    energies: NDArray[np.float32]
    answer_to_ns: int
    goal_asked: bool = False
    history_reset: str = ""
    image_publishers: int = 0

    @property
    def tell_nothing(self) -> bool:
        """Whether the energies to a goal are no numbers: the present one, or those of every candidate."""
        if self.goal_stamp_ns is None:
            return False
        return not (math.isfinite(self.current_energy) and np.isfinite(self.energies).all(axis=1).any())


@dataclass(frozen=True)
class Decision:
    """What to do: the state, the action [A] to execute (None: stand), and candidates [K, H, A] to ask about
    (None: the last question is still open)."""

    state: State
    command: NDArray[np.floating] | None
    question: NDArray[np.floating] | None


class RecedingHorizonPlanner:
    """Decides from one futures message to the next.

    Args:
        search: the distribution; owned by the seeker from now on.
        step_s: how long the model holds one action.
        goal_threshold: energy at or below which the goal counts as reached.
        reached_after: for so many images in a row.
        stuck_after_s: without progress for this long the robot is stuck: it plans from scratch, after a
            recovery motion. Time in which it was made to stand, had no plan, or recovered, does not count.
        recovery_s: for how long it drives in one random direction in which the model predicts that the energy
            to the goal hardly rises; 0: not at all.
        recovery_speed: proportion of the limits at which it does.

    Attributes:
        goal_threshold: as given; may be set anew.
        told: [A], what the robot was told last, which is to be set: it may have been told less than was
            decided.
        iterations: of the search, since it was made.
        stuck_count: how often the robot was stuck, since then.
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
    ) -> None:
        self._search = search
        self._step_ns = round(step_s * 1e9)
        self.goal_threshold = goal_threshold
        self._reached_after = reached_after
        self._stuck_after_ns, self._recovery_ns = round(stuck_after_s * 1e9), round(recovery_s * 1e9)
        self._recovery_speed = recovery_speed
        self.iterations = self.stuck_count = 0
        self._blocked: NDArray[np.floating] | None = None
        self._way_around: NDArray[np.floating] | None = None
        # Since images showed motion last, actions with a positive component along one of these are rejected.
        self._normals: list[NDArray[np.floating]] = []
        self._is_confirmed = True
        self._newest_ns = self._recovery_until_ns = 0
        self._begin(None)

    @property
    def executed(self) -> NDArray[np.float32] | None:
        """[A], what the robot did in the step before, from where its next action may differ only so much."""
        return self._search.executed

    @property
    def is_unanswered(self) -> bool:
        """Whether there has been no plan for so long as a robot may be without progress."""
        return self._planless_ns > self._stuck_after_ns

    def avoid(self, action: NDArray[np.floating]) -> None:
        """Plan around ``action`` [A], which did not move the robot as predicted.

        Until the robot has driven for ``stuck_after_s``, first actions that have more of it than of a
        direction across it are rejected; of those directions, the one in which the model predicts the best
        plan. Until :meth:`confirm_motion`, so are those that go across at less than half its speed, since a
        slow motion is hard to see, and what was avoided before."""
        if self._is_confirmed:
            self._normals = []
        self._blocked, self._blocked_ns = np.array(action, np.float32), self._stuck_after_ns
        self._way_around, self._is_confirmed = None, False

    def confirm_motion(self) -> None:
        """Images show that the robot moves."""
        self._is_confirmed = True

    def restart(self) -> None:
        """The robot was told to stand: forget the plan. One that is made to stand again and again, since it
        pushes against what its model does not see, is stuck all the same."""
        self._plan_anew(self._goal_ns)

    def update(self, futures: Futures) -> Decision:
        """Take in ``futures`` and decide."""
        if futures.goal_stamp_ns is None:
            self._begin(None)
            return Decision(State.IDLE, None, None)
        # Where time was set back, moments noted before mean nothing.
        if futures.goal_stamp_ns != self._goal_ns or futures.stamp_ns < self._newest_ns:
            self._begin(futures.goal_stamp_ns)
        passed_ns = futures.stamp_ns - self._newest_ns if self._newest_ns else 0
        self._newest_ns = futures.stamp_ns
        if self._is_reached(futures.current_energy):
            return Decision(State.REACHED, None, None)
        self._learn(futures, passed_ns)
        self._note_progress(futures, passed_ns)
        if self._recovery is not None and futures.stamp_ns < self._recovery_until_ns:
            self._search.executed = self._recovery
            return Decision(self._state, self._recovery, self._next_question(futures))
        command = np.array(self._search.mean[0]) if futures.stamp_ns < self._planned_until_ns else None
        return Decision(self._state, command, self._next_question(futures))

    def _begin(self, goal_ns: int | None) -> None:
        self._best, self._idle_ns = math.inf, 0
        self._blocked = None
        self._way_around = None
        self._normals = []
        self._is_confirmed = True
        self._blocked_ns = 0
        self._plan_anew(goal_ns)

    def _plan_anew(self, goal_ns: int | None) -> None:
        self.told = self._search.executed = np.zeros_like(self._search.mean[0])
        self._search.reset()
        self._goal_ns = goal_ns
        self._state = State.SEEKING
        self._near = 0
        self._planned_until_ns = self._planless_ns = 0
        self._asked_ns, self._asked_count, self._unanswered = 0, 0, 0
        self._plan_ns: int | None = None
        self._question: NDArray[np.floating] | None = None
        # Candidates for a recovery motion that were asked about, and the one that was chosen.
        self._wants_recovery = False
        self._ways: NDArray[np.float32] | None = None
        self._recovery: NDArray[np.float32] | None = None
        self._recovery_until_ns = self._newest_ns = 0

    def _is_reached(self, energy: float) -> bool:
        limit = self.goal_threshold * (_LEAVE_FACTOR if self._state is State.REACHED else 1.0)
        self._near = self._near + 1 if energy <= limit else 0
        if self._near >= self._reached_after:
            self._state = State.REACHED
        elif self._near == 0 and self._state is State.REACHED:
            self._begin(self._goal_ns)
        return self._state is State.REACHED

    def _learn(self, futures: Futures, passed_ns: int) -> None:
        if self._plan_ns is None:
            self._plan_ns = futures.stamp_ns
        # An image that is a little early belongs to the step that it begins, as for the world model.
        early_ns = self._step_ns // 8
        steps = (futures.stamp_ns - self._plan_ns + early_ns) // self._step_ns
        answers = self._asked_ns != 0 and futures.answer_to_ns == self._asked_ns
        learnt = answers and len(futures.energies) == self._asked_count
        if learnt and self._ways is not None:
            self._begin_recovery(futures, self._ways)
            learnt = False
        elif learnt:
            self._search.tell(self._costs(futures.energies))
            self._planned_until_ns = futures.stamp_ns + (len(self._search.mean) + 1) * self._step_ns
            self._asked_ns = 0
            self.iterations += 1
        if steps > 0:
            # What an image judged begins with it. A fast camera's next one soon judges what a shift leaves;
            # with a step between images, the action after it would be told.
            begins = learnt and passed_ns + early_ns >= self._step_ns
            self._search.shift(0 if begins else int(steps), executed=self.told)
            self._plan_ns += int(steps) * self._step_ns
            # What was asked before the shift is no longer what the distribution is about.
            self._asked_ns = 0

    def _costs(self, energies: NDArray[np.float32]) -> NDArray[np.floating]:
        costs = plan_costs(energies)
        if self._blocked is None or self._question is None:
            return costs
        speed = np.linalg.norm(self._blocked)
        forward, first = self._blocked / speed, self._question[:, 0]
        if self._way_around is None:
            self._way_around = _best_across(first, np.where(self._is_rejected(first), np.inf, costs), forward)
            self._normals.append(forward - self._way_around)
        rejected = self._is_rejected(first)
        if self._way_around.any() and not self._is_confirmed:
            rejected |= first @ self._way_around < speed / 2
        return np.where(rejected, np.inf, costs)

    def _is_rejected(self, first: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether each of ``first`` [K, A] goes where the robot was blocked.

        What is left is convex: the mean of allowed actions is allowed."""
        normals = np.reshape(self._normals, (-1, first.shape[1]))
        rejected: NDArray[np.bool_] = (first @ normals.T > 0).any(axis=1)
        return rejected

    def _note_progress(self, futures: Futures, passed_ns: int) -> None:
        if futures.stamp_ns < max(self._planned_until_ns, self._recovery_until_ns):
            self._idle_ns, self._planless_ns = self._idle_ns + passed_ns, 0
            self._blocked_ns -= passed_ns
            if self._blocked_ns <= 0:
                self._blocked = None
        else:
            self._planless_ns += passed_ns
        if futures.current_energy < PROGRESS * self._best:
            self._best, self._state = futures.current_energy, State.SEEKING
            self._idle_ns = 0
        elif self._idle_ns > self._stuck_after_ns:
            self._search.executed = self.told
            self._search.reset()
            self._state, self._planned_until_ns, self._asked_ns = State.STUCK, 0, 0
            self._wants_recovery = self._recovery_ns > 0
            self.stuck_count += 1
            self._best, self._idle_ns = futures.current_energy, 0

    def _begin_recovery(self, futures: Futures, ways: NDArray[np.float32]) -> None:
        """Take the first of ``ways`` [K, H, A], which are random, that the model predicts to be harmless."""
        self._wants_recovery, self._ways, self._asked_ns = False, None, 0
        rises = futures.energies.max(axis=1) - futures.current_energy
        harmless = np.flatnonzero(rises <= _HARMLESS * abs(futures.current_energy))
        if len(harmless):
            self._recovery = ways[harmless[0], 0]
            self._recovery_until_ns = futures.stamp_ns + self._recovery_ns
            self._idle_ns = -self._recovery_ns

    def _next_question(self, futures: Futures) -> NDArray[np.floating] | None:
        self._unanswered = self._unanswered + 1 if self._asked_ns else 0
        if self._asked_ns and self._unanswered < _ANSWER_WITHIN:
            return None
        self._ways = self._search.directions(self._recovery_speed) if self._wants_recovery else None
        question = self._search.ask() if self._ways is None else self._ways
        self._asked_ns, self._asked_count, self._unanswered = futures.stamp_ns, len(question), 0
        self._question = question
        return question


def _best_across(
    first: NDArray[np.floating], costs: NDArray[np.floating], forward: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the unit vector [A] across ``forward`` to which the best of the ``first`` actions [K, A] tends
    that go across more than forward; zeros if none does."""
    along = first @ forward
    across = first - along[:, None] * forward
    sizes = np.linalg.norm(across, axis=1)
    eligible = (sizes >= along) & (sizes > 1e-6) & np.isfinite(costs)
    if not eligible.any():
        return np.zeros_like(forward)
    best = int(np.argmin(np.where(eligible, costs, np.inf)))
    way: NDArray[np.floating] = across[best] / sizes[best]
    return way
