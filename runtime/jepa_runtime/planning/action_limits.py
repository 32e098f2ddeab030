"""What a robot can do, and how an action sequence is brought inside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import NORM_ROUNDING, Manifest

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ActionLimits:
    """A box and, where the robot has them, a greatest norm and a greatest change.

    Attributes:
        low, high: [A], the box, of which all is searched: finite.
        max_norm: of an action, or of its ``norm_components`` (None: all), in their unit.
        max_change: [A], from one action of a sequence to the next, and to its first from the one executed
            last.

    Raises:
        ValueError: the limits contradict each other, or leave a component unlimited.
    """

    low: Floats32
    high: Floats32
    max_norm: float | None = None
    norm_components: tuple[int, ...] | None = None
    max_change: Floats32 | None = None

    def __post_init__(self) -> None:
        size = len(self.low)
        if np.shape(self.low) != np.shape(self.high) or not np.all(self.low <= self.high):
            raise ValueError(f"low must not exceed high, got {self.low} and {self.high}")
        # Searches draw from all of the box.
        if not np.isfinite([self.low, self.high]).all():
            raise ValueError(f"low and high must be finite, got {self.low} and {self.high}")
        if self.max_change is not None and (
            np.shape(self.max_change) != (size,)
            or not np.all((self.max_change > 0) | (self.max_change == self.high - self.low))
        ):
            raise ValueError(f"max_change must be {size} numbers above 0, got {self.max_change}")
        if self.max_norm is None:
            return
        if self.norm_components is not None and not set(self.norm_components) <= set(range(size)):
            raise ValueError(f"norm_components must be within 0 … {size - 1}, got {self.norm_components}")
        least = float(np.linalg.norm(self._limited(np.clip(np.zeros(size), self.low, self.high))))
        if not least <= self.max_norm * NORM_ROUNDING:
            raise ValueError(
                f"max_norm must be at least that of the least action in the box ({least:g}), got "
                f"{self.max_norm}"
            )

    @classmethod
    def of(cls, manifest: Manifest) -> ActionLimits:
        """Those of a model: within them it was trained."""
        action = manifest.io.action
        return cls(
            low=np.asarray(action.low, np.float32),
            high=np.asarray(action.high, np.float32),
            max_norm=action.max_norm,
        )

    def clip(self, actions: Floats32, previous: Floats32 | None = None) -> Floats32:
        """``actions`` brought inside the limits; what is inside stays as it is, to the bit.

        Each action is first clipped to the box, then drawn towards the least action of the box until its norm
        is allowed. With ``max_change`` the box is what can be reached from the action before.

        Args:
            actions: [..., A]; sequences [..., H, A] where there is a ``max_change``.
            previous: [A], what was executed last (None: nothing, the first action may be any). Of one that is
                itself beyond the limits, the nearest allowed counts.

        Returns:
            float32 of the same shape.
        """
        if self.max_change is None:
            return self._within(actions, self.low, self.high)
        clipped = np.empty(actions.shape, np.float32)
        before = None if previous is None else self._within(previous, self.low, self.high)
        for step in range(actions.shape[-2]):
            before = clipped[..., step, :] = self._within_reach(actions[..., step, :], before, 1.0)
        return clipped

    def approach(self, action: Floats32, previous: Floats32, share: float) -> Floats32:
        """How far ``action`` [A] may be approached within this share of a step, float32 [A].

        Args:
            previous: [A], what is executed until then. Of one that is itself beyond the limits, the nearest
                allowed counts.
            share: from 0 to 1, of ``max_change``.
        """
        return self._within_reach(action, self._within(previous, self.low, self.high), share)

    def effort(self, action: NDArray[np.floating]) -> float:
        """How large ``action`` [A] is: 0 at rest, 1 where a component or the norm is as large as allowed."""
        most = np.maximum(np.abs(self.low), np.abs(self.high))
        size = np.abs(action)
        effort = float(np.max(np.divide(size, most, out=np.zeros(size.shape), where=most > 0), initial=0.0))
        if self.max_norm:
            effort = max(effort, float(np.linalg.norm(self._limited(np.asarray(action)))) / self.max_norm)
        return effort

    def forbids(self, action: Floats32, previous: Floats32 | None = None) -> str:
        """Why ``action`` [A] may not be executed after ``previous`` [A] (None: nothing); empty: it may."""
        if not np.isfinite(action).all():
            return f"the action {action.tolist()} is not finite"
        nearest = self.clip(action[None], previous)[0]
        if not np.array_equal(nearest, action):
            return f"the action {action.tolist()} is beyond the limits, which allow {nearest.tolist()}"
        return ""

    def _within_reach(self, actions: Floats32, before: Floats32 | None, share: float) -> Floats32:
        """Inside the limits, and within this share of ``max_change`` of the allowed actions ``before``."""
        if before is None or self.max_change is None:
            return self._within(actions, self.low, self.high)
        reach = self.max_change * np.float32(share)
        return self._within(
            actions, np.maximum(self.low, before - reach), np.minimum(self.high, before + reach)
        )

    def _within(self, actions: Floats32, low: Floats32, high: Floats32) -> Floats32:
        """Inside the box, and inside the norm. The box holds an action of allowed norm."""
        actions = np.clip(actions, low, high).astype(np.float32, copy=False)
        if self.max_norm is None:
            return actions
        limited = self._limited(actions)
        norm = np.linalg.norm(limited, axis=-1, keepdims=True)
        if not (norm > self.max_norm * NORM_ROUNDING).any():
            return actions
        least = self._limited(np.clip(np.float32(0), low, high))
        if least.any():
            shorter = _drawn_back(limited, least, self.max_norm)
        else:
            shorter = limited * np.minimum(1.0, self.max_norm / np.maximum(norm, 1e-9)).astype(np.float32)
        shorter = np.where(norm > self.max_norm * NORM_ROUNDING, shorter, limited)
        if self.norm_components is None:
            return shorter
        actions[..., list(self.norm_components)] = shorter
        return actions

    def _limited(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """The components whose norm is limited."""
        return actions if self.norm_components is None else actions[..., list(self.norm_components)]


def _drawn_back(actions: Floats32, least: Floats32, max_norm: float) -> Floats32:
    """The points of the way from ``least`` to ``actions`` where the norm is ``max_norm``.

    With a = least and d = actions - least: the root t of |a + t d|² = max_norm². In double precision, so that
    rounding to single precision afterwards leaves less than :data:`NORM_ROUNDING`."""
    start = least.astype(np.float64)
    way = actions - start
    along = np.sum(start * way, axis=-1, keepdims=True)
    length = np.maximum(np.sum(way * way, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    room = np.maximum(max_norm**2 - np.sum(start * start, axis=-1, keepdims=True), 0.0)
    share = (np.sqrt(along**2 + length * room) - along) / length
    drawn: Floats32 = (start + share * way).astype(np.float32)
    return drawn
