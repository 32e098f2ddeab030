"""The last latents and the actions between them, aligned by time stamp.

No clock and no lock is used: time is that of the stamps, and one thread uses a :class:`History`.

Rules:
    1. An action is held from its stamp until the next one (zero-order hold). Between two latents the model is
       given the time-weighted mean of the held actions; if the action is unknown for a part of that time,
       there is no mean.
    2. Steps are found by time, not by counting frames: the latent one step ago is the one nearest to
       ``step_ns`` before the newest, within ``tolerance_ns``.
    3. If the model reads the state of the robot, the state at a latent is the one nearest to it in time,
       within ``tolerance_ns``. Without one there is no context.
    4. Frames further apart than ``max_gap_ns``, a stamp that goes backwards, or :meth:`History.restart` reset
       the history, and :meth:`History.add_latent` reports it. The last action then stays in force, with an
       unknown start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Evenly spaced if more arrive within the time span of the history.
_MAX_LATENTS = 512
# Half a minute of commands or states at 1 kHz.
_MAX_ACTIONS = _MAX_STATES = 32768


class Reset(Enum):
    """Why a history was reset."""

    FIRST = "first"
    GAP = "gap"
    CLOCK_BACKWARDS = "clock_backwards"
    MODEL = "model"
    FRAME = "frame"


@dataclass(frozen=True)
class Context:
    """The past that a predictor needs.

    Attributes:
        latents: [W, T, D], oldest first.
        actions: Actions [W-1, A] between them in SI units.
        stamp_ns: Stamp of the newest latent.
        states: States [W, S] of the robot at the latents; None if the model reads none.
    """

    latents: Floats
    actions: Floats
    stamp_ns: int
    states: Floats | None = None


@dataclass(frozen=True)
class PastContext:
    """The context some steps ago, and what has happened since.

    Attributes:
        context: The context then.
        actions: Mean actions [h, A] executed in each step since.
        arrived: Latent [T, D] after each step; None if no frame was near that time.
    """

    context: Context
    actions: Floats
    arrived: tuple[Floats | None, ...]


class History:
    """Latents and actions of the last ``history_size`` steps.

    Args:
        history_size: W, the number of latents one step apart that the model takes (>= 1).
        step_ns: Duration of a model step.
        action_size: A, the number of action components.
        tolerance_ns: Largest distance of a latent from its nominal time (less than half a step).
        max_gap_ns: Frames further apart than this do not form one sequence.
        reach: Number of steps that :meth:`past_context` can look back (>= 1); may be changed.
        state_size: S, the number of components of the robot's state; 0: the model reads none.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        history_size: int,
        step_ns: int,
        *,
        action_size: int,
        tolerance_ns: int,
        max_gap_ns: int,
        reach: int = 1,
        state_size: int = 0,
    ) -> None:
        if history_size < 1:
            raise ValueError(f"history_size must be at least 1, got {history_size}")
        if step_ns < 1:
            raise ValueError(f"step_ns must be positive, got {step_ns}")
        if action_size < 0:
            raise ValueError(f"action_size must not be negative, got {action_size}")
        if not 0 <= tolerance_ns < step_ns / 2:
            raise ValueError(
                f"tolerance_ns must lie in [0, step_ns / 2), got {tolerance_ns} with step_ns {step_ns}"
            )
        if max_gap_ns < 1:
            raise ValueError(f"max_gap_ns must be positive, got {max_gap_ns}")
        if reach < 1:
            raise ValueError(f"reach must be at least 1, got {reach}")
        self.history_size = history_size
        self.step_ns = step_ns
        self.action_size = action_size
        self.tolerance_ns = tolerance_ns
        self.max_gap_ns = max_gap_ns
        self.reach = reach
        self.state_size = state_size
        self.resets: dict[Reset, int] = dict.fromkeys(Reset, 0)
        self._first = Reset.FIRST
        self._no_actions = np.zeros((0, action_size), np.float32)
        self._stamps: list[int] = []
        self._latents: list[Floats] = []
        self._action_stamps: list[int] = []
        self._actions: list[Floats] = []
        # At the stamp of each action, the time integral [ns] of the previous actions and of the magnitudes of
        # their components [2A], so that the cost of a mean does not depend on the number of commands.
        self._integrals: list[list[float]] = []
        self._state_stamps: list[int] = []
        self._states: list[Floats] = []

    def __len__(self) -> int:
        """Return the number of latents."""
        return len(self._stamps)

    def add_action(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """Add ``action`` [A] in SI units, which is in force from ``stamp_ns`` on. It is copied.

        A stamp older than that of the last action means that the clock was set back: later actions are
        dropped.

        Raises:
            ValueError: ``action`` does not have ``action_size`` finite components.
        """
        held = np.array(action, np.float32)
        if held.shape != (self.action_size,) or not np.isfinite(held).all():
            raise ValueError(
                f"action must be {self.action_size} finite numbers, got {np.asarray(action).tolist()}"
            )
        count = bisect_left(self._action_stamps, stamp_ns)
        self._drop_actions(slice(count, None))
        integral = self._integral(stamp_ns, count - 1) if count else [0.0] * 2 * self.action_size
        self._action_stamps.append(stamp_ns)
        self._actions.append(held)
        self._integrals.append(integral)
        self._drop_actions(slice(0, max(0, len(self._actions) - _MAX_ACTIONS)))

    def add_state(self, stamp_ns: int, state: NDArray[np.floating]) -> None:
        """Add the ``state`` [S] of the robot at ``stamp_ns``. It is copied.

        A stamp older than that of the last state means that the clock was set back: later states are dropped.

        Raises:
            ValueError: ``state`` does not have ``state_size`` finite components.
        """
        measured = np.array(state, np.float32)
        if measured.shape != (self.state_size,) or not np.isfinite(measured).all():
            raise ValueError(
                f"state must be {self.state_size} finite numbers, got {np.asarray(state).tolist()}"
            )
        self._drop_states(slice(bisect_left(self._state_stamps, stamp_ns), None))
        self._state_stamps.append(stamp_ns)
        self._states.append(measured)
        self._drop_states(slice(0, max(0, len(self._states) - _MAX_STATES)))

    def adopt_actions(self, other: History) -> None:
        """Copy the actions and states of ``other``, but not its latents, which belong to another model."""
        self._first = Reset.MODEL
        self._state_stamps, self._states = list(other._state_stamps), list(other._states)
        self._action_stamps = list(other._action_stamps)
        self._actions = list(other._actions)
        self._integrals = list(other._integrals)

    def steps_in(self, duration_ns: int) -> int:
        """Return the number of model steps that cover ``duration_ns``."""
        return -(-duration_ns // self.step_ns)

    def restart(self, reason: Reset) -> None:
        """Drop the latents: the next one begins a new sequence, for this ``reason``."""
        self._first = reason
        self._stamps.clear()
        self._latents.clear()

    def add_latent(self, stamp_ns: int, latent: Floats) -> Reset | None:
        """Add the newest ``latent`` [T, D], by reference.

        Returns:
            Why the history was reset with it, or None.
        """
        reset = self._reason_to_reset(stamp_ns)
        if reset is not None:
            self.resets[reset] += 1
            self._stamps.clear()
            self._latents.clear()
        if reset is Reset.CLOCK_BACKWARDS:
            in_force = self._actions[-1:]
            self._drop_actions(slice(None))
            for action in in_force:
                self.add_action(stamp_ns, action)
        if self._stamps[-1:] == [stamp_ns] or self._newest_is_close():
            del self._stamps[-1], self._latents[-1]
        self._stamps.append(stamp_ns)
        self._latents.append(latent)
        self._drop_before(stamp_ns - self._span_ns)
        return reset

    def context(self) -> Context | None:
        """Return the newest latent and the W-1 before it, one step apart.

        Returns:
            None if the history is too short, or an action between them or a state is unknown.
        """
        return self._context_at(len(self._stamps) - 1)

    def previous(self) -> tuple[Context, Floats] | None:
        """Return the context one step ago and the mean action [A] since, which predict the newest latent.

        Returns:
            None if the history is too short.
        """
        past = self.past_context(1)
        return None if past is None else (past.context, past.actions[0])

    def past_context(self, steps: int) -> PastContext | None:
        """Return the context ``steps`` (1 to :attr:`reach`) before the newest latent, and what followed.

        Returns:
            None if the history is too short, or an action since is unknown.
        """
        if not self._stamps:
            return None
        newest_ns = self._stamps[-1]
        times = [newest_ns - back * self.step_ns for back in range(steps, -1, -1)]
        indices = [self._nearest(time_ns) for time_ns in times]
        context = None if indices[0] is None else self._context_at(indices[0])
        if context is None:
            return None
        edges = [
            time_ns if index is None else self._stamps[index]
            for time_ns, index in zip(times, indices, strict=True)
        ]
        actions = np.empty((steps, self.action_size), np.float32)
        for row, (start, end) in enumerate(pairwise(edges)):
            mean = self.mean_action(start, end)
            if mean is None:
                return None
            actions[row] = mean
        arrived = tuple(None if index is None else self._latents[index] for index in indices[1:])
        return PastContext(context, actions, arrived)

    def mean_action(self, start_ns: int, end_ns: int) -> Floats | None:
        """Return the time-weighted mean [A] of the actions over [start, end); None if one is unknown."""
        means = self._means(start_ns, end_ns)
        return None if means is None else means[: self.action_size]

    def mean_magnitude(self) -> Floats | None:
        """Return the time-weighted mean [A] of the magnitudes of the actions in the last step.

        Unlike the mean, it is not near zero for actions back and forth.

        Returns:
            None if an action is unknown.
        """
        if not self._stamps:
            return None
        means = self._means(self._stamps[-1] - self.step_ns, self._stamps[-1])
        return None if means is None else means[self.action_size :]

    def _means(self, start_ns: int, end_ns: int) -> Floats | None:
        """Return the means of the actions over [start, end) and of their magnitudes [2A]."""
        if self.action_size == 0:
            return self._no_actions.reshape(0)
        first = bisect_right(self._action_stamps, start_ns) - 1
        if first < 0 or end_ns <= start_ns:
            return None
        last = bisect_left(self._action_stamps, end_ns) - 1
        if last == first:
            action = self._actions[first]
            return np.concatenate([action, np.abs(action)])
        ends, starts = self._integral(end_ns, last), self._integral(start_ns, first)
        means = [(end - start) / (end_ns - start_ns) for start, end in zip(starts, ends, strict=True)]
        return np.array(means, np.float32)

    def _integral(self, stamp_ns: int, index: int) -> list[float]:
        """Return the integral until ``stamp_ns``, when the action at ``index`` is in force."""
        held_ns, before = stamp_ns - self._action_stamps[index], self._integrals[index]
        action: list[float] = self._actions[index].tolist()
        held = [*action, *map(abs, action)]
        return [sum_ + each * held_ns for sum_, each in zip(before, held, strict=True)]

    @property
    def _span_ns(self) -> int:
        """Time span of the history, with the tolerance at both ends."""
        return (self.history_size - 1 + self.reach) * self.step_ns + 2 * self.tolerance_ns

    def _newest_is_close(self) -> bool:
        """Return whether the newest latent can be dropped once another arrives."""
        return len(self._stamps) > 1 and self._stamps[-1] - self._stamps[-2] < self._span_ns / _MAX_LATENTS

    def _reason_to_reset(self, stamp_ns: int) -> Reset | None:
        if not self._stamps:
            return self._first
        if stamp_ns < self._stamps[-1]:
            return Reset.CLOCK_BACKWARDS
        return Reset.GAP if stamp_ns - self._stamps[-1] > self.max_gap_ns else None

    def _nearest(self, stamp_ns: int) -> int | None:
        """Return the index of the latent nearest to a time not after the newest one."""
        best = bisect_left(self._stamps, stamp_ns)
        if best > 0 and stamp_ns - self._stamps[best - 1] <= self._stamps[best] - stamp_ns:
            best -= 1
        return best if abs(self._stamps[best] - stamp_ns) <= self.tolerance_ns else None

    def _context_at(self, newest: int) -> Context | None:
        if newest < 0:
            return None
        stamp_ns = self._stamps[newest]
        if self.history_size == 1:
            return self._with_states(
                Context(self._latents[newest][None], self._no_actions, stamp_ns), [newest]
            )
        indices: list[int] = []
        for back in range(self.history_size - 1, 0, -1):
            index = self._nearest(stamp_ns - back * self.step_ns)
            if index is None:
                return None
            indices.append(index)
        indices.append(newest)
        actions = np.empty((self.history_size - 1, self.action_size), np.float32)
        for row, (start, end) in enumerate(pairwise(indices)):
            mean = self.mean_action(self._stamps[start], self._stamps[end])
            if mean is None:
                return None
            actions[row] = mean
        latents = np.empty((self.history_size, *self._latents[newest].shape), np.float32)
        for row, index in enumerate(indices):
            latents[row] = self._latents[index]
        return self._with_states(Context(latents, actions, stamp_ns), indices)

    def _with_states(self, context: Context, indices: list[int]) -> Context | None:
        """Return ``context`` with the states at its latents; None if one is unknown."""
        if not self.state_size:
            return context
        states = [self._state_at(self._stamps[index]) for index in indices]
        known = [state for state in states if state is not None]
        return replace(context, states=np.stack(known)) if len(known) == len(states) else None

    def _state_at(self, stamp_ns: int) -> Floats | None:
        after = bisect_left(self._state_stamps, stamp_ns)
        nearest = min(
            range(max(0, after - 1), min(after + 1, len(self._states))),
            key=lambda index: abs(self._state_stamps[index] - stamp_ns),
            default=None,
        )
        if nearest is None or abs(self._state_stamps[nearest] - stamp_ns) > self.tolerance_ns:
            return None
        return self._states[nearest]

    def _drop_before(self, oldest_ns: int) -> None:
        stale = bisect_left(self._stamps, oldest_ns)
        del self._stamps[:stale], self._latents[:stale]
        # The action in force at that time is still needed, earlier ones are not.
        stale = bisect_right(self._action_stamps, oldest_ns) - 1
        self._drop_actions(slice(0, max(0, stale)))
        self._drop_states(slice(0, bisect_left(self._state_stamps, oldest_ns - self.tolerance_ns)))

    def _drop_actions(self, which: slice) -> None:
        del self._action_stamps[which], self._actions[which], self._integrals[which]

    def _drop_states(self, which: slice) -> None:
        del self._state_stamps[which], self._states[which]
