"""What was foreseen, kept until it can be compared with what came.

Rules:
    1. A prediction is for the moment ``h * step_ns`` after the stamp of the latent from which it was made. A
       latent that arrives is compared, of each horizon, with the prediction whose moment is nearest to its
       own stamp, within ``tolerance_ns``. No prediction is compared twice at one horizon.
    2. Of the candidates, the one is compared whose actions are what was really executed in each step until
       then, within ``action_tolerance`` a component. Where what was executed is unknown, or was none of the
       candidates, nothing is: the prediction was of something else.
    3. A stamp that goes backwards empties the ledger: it belongs to another course of events. So must
       :meth:`Ledger.forget` whenever the history starts anew.
    4. At most ``capacity`` predictions are held. While it is full, new ones are refused rather than old ones
       dropped, or no long horizon would ever be judged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Executed = Callable[[int, int], "Floats | None"]


@dataclass(frozen=True)
class Errors:
    """How wrong what was foreseen was, horizon by horizon.

    Attributes:
        stamp_ns: of the latent that came.
        errors: [H] norms of predicted minus arrived latent; NaN where nothing could be compared.
        stated: [H] bounds that were stated with these predictions; NaN likewise.
        foreseen_ns: [H] stamps from which was predicted; None likewise.
    """

    stamp_ns: int
    errors: NDArray[np.float64]
    stated: NDArray[np.float64]
    foreseen_ns: tuple[int | None, ...]


class _Foreseen:
    """A prediction, with those of its candidates that may still be what is executed."""

    def __init__(self, stamp_ns: int, actions: Floats, latents: Floats, stated: NDArray[np.float64]) -> None:
        self.stamp_ns = stamp_ns
        self.actions = actions
        self.latents = latents
        self.stated = stated
        self.followed = 0
        self.judged = 0

    def follow(self, steps: int, step_ns: int, executed: Executed, tolerance: float) -> bool:
        """Keep the candidates that are what was executed in the first ``steps``; whether one is."""
        while self.followed < steps and len(self.actions):
            start_ns = self.stamp_ns + self.followed * step_ns
            action = executed(start_ns, start_ns + step_ns)
            if action is None:
                self._keep(np.zeros(0, np.intp))
                break
            away = np.abs(self.actions[:, self.followed] - action).max(axis=1, initial=0.0)
            same = np.flatnonzero(away <= tolerance)
            self._keep(same[np.argsort(away[same], kind="stable")])
            self.followed += 1
        return len(self.actions) > 0

    def _keep(self, candidates: NDArray[np.intp]) -> None:
        # Copied, so that those left behind are given back.
        self.actions = self.actions[candidates]
        self.latents = self.latents[candidates]


class Ledger:
    """Predictions of the last ``horizon`` steps.

    Args:
        horizon: H, how many steps are foreseen.
        step_ns: how long one is.
        tolerance_ns: how far a latent may be from the moment it was foreseen for (less than half a step).
        action_tolerance: how far each component of an executed action may be from the candidate's (SI units).
        capacity: how many predictions are held at most: to judge all at 30 Hz, 30 times the seconds of the
            horizon, and one more. Each holds all K candidates by reference until one step is over, then
            copies of those that were executed.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, horizon: int, step_ns: int, *, tolerance_ns: int, action_tolerance: float, capacity: int
    ) -> None:
        if horizon < 1 or step_ns < 1 or capacity < 1:
            raise ValueError(
                f"horizon, step_ns and capacity must be at least 1, got {horizon}, {step_ns} and {capacity}"
            )
        if not 0 <= tolerance_ns < step_ns / 2:
            raise ValueError(
                f"tolerance_ns must lie in [0, step_ns / 2), got {tolerance_ns} with step_ns {step_ns}"
            )
        if not action_tolerance >= 0:
            raise ValueError(f"action_tolerance must not be negative, got {action_tolerance}")
        self.horizon = horizon
        self.step_ns = step_ns
        self.tolerance_ns = tolerance_ns
        self.action_tolerance = action_tolerance
        self.capacity = capacity
        self.refused = 0
        self._newest_ns: int | None = None
        self._foreseen: list[_Foreseen] = []

    def __len__(self) -> int:
        """How many predictions are held."""
        return len(self._foreseen)

    def forget(self) -> None:
        """Drop all that was foreseen: what comes is not its continuation."""
        self._foreseen.clear()
        self._newest_ns = None

    def foresee(self, stamp_ns: int, actions: Floats, latents: Floats, stated: NDArray[np.float64]) -> bool:
        """Keep a prediction made from the latent of ``stamp_ns``. A second one of the same stamp replaces
        the first.

        Args:
            actions: [K, H, A] of the candidates.
            latents: [K, H, T, D] that they lead to; kept by reference.
            stated: [H] bounds that are stated with it.

        Returns:
            Whether there was room for it.

        Raises:
            ValueError: shapes are no such prediction.
        """
        kept = np.array(stated, np.float64)
        shapes = actions.shape[:2], latents.shape[:2], kept.shape
        expected = (len(actions), self.horizon)
        if actions.ndim != 3 or latents.ndim < 3 or shapes != (expected, expected, (self.horizon,)):
            raise ValueError(
                f"actions, latents and stated must be [K, {self.horizon}, A], [K, {self.horizon}, T, D] and "
                f"[{self.horizon}], got {list(actions.shape)}, {list(latents.shape)} and {list(kept.shape)}"
            )
        self._pass_to(stamp_ns)
        if self._foreseen and self._foreseen[-1].stamp_ns == stamp_ns:
            self._foreseen.pop()
        if len(self._foreseen) >= self.capacity:
            self.refused += 1
            return False
        self._foreseen.append(_Foreseen(stamp_ns, actions, latents, kept))
        return True

    def arrive(self, stamp_ns: int, latent: Floats, executed: Executed) -> Errors:
        """Compare what was foreseen for ``stamp_ns`` with the ``latent`` [T, D] that came.

        Args:
            executed: the mean action [A] over [start, end) in ns, or None where it is not known; see
                :meth:`jepa_runtime.history.History.mean_action`.
        """
        self._pass_to(stamp_ns)
        errors, stated = np.full((2, self.horizon), np.nan)
        foreseen_ns: list[int | None] = [None] * self.horizon
        for row in range(self.horizon):
            entry = self._nearest(stamp_ns - (row + 1) * self.step_ns)
            if entry is None or entry.judged > row:
                continue
            entry.judged = row + 1
            if entry.follow(row + 1, self.step_ns, executed, self.action_tolerance):
                difference = entry.latents[0, row] - latent
                errors[row] = np.linalg.norm(difference.astype(np.float64))
                stated[row] = entry.stated[row]
                foreseen_ns[row] = entry.stamp_ns
        self._foreseen = [entry for entry in self._foreseen if len(entry.actions)]
        return Errors(stamp_ns, errors, stated, tuple(foreseen_ns))

    def _pass_to(self, stamp_ns: int) -> None:
        """Time is ``stamp_ns`` now: drop what is over."""
        if self._newest_ns is not None and stamp_ns < self._newest_ns:
            self._foreseen.clear()
        self._newest_ns = stamp_ns
        oldest_ns = stamp_ns - self.horizon * self.step_ns - self.tolerance_ns
        stale = bisect_left(self._foreseen, oldest_ns, key=_stamp_of)
        del self._foreseen[:stale]

    def _nearest(self, stamp_ns: int) -> _Foreseen | None:
        after = bisect_left(self._foreseen, stamp_ns, key=_stamp_of)
        near = self._foreseen[max(0, after - 1) : after + 1]
        best = min(near, key=lambda entry: abs(entry.stamp_ns - stamp_ns), default=None)
        return best if best is not None and abs(best.stamp_ns - stamp_ns) <= self.tolerance_ns else None


def _stamp_of(entry: _Foreseen) -> int:
    return entry.stamp_ns
