"""Action limits of a robot, and the projection of action sequences onto them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import NORM_ROUNDING, Manifest

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ActionLimits:
    """A box and, optionally, a maximum norm and a maximum change.

    Attributes:
        low: Lower corner [A] of the box; finite, because searches draw from all of it.
        high: Upper corner [A] of the box; finite.
        max_norm: Maximum norm of an action, or of its ``norm_components``, in their unit; None: no limit.
        norm_components: Components whose norm is limited; None: all.
        max_change: Maximum change [A] between consecutive actions, and from the last executed action to the
            first; None: no limit.

    Raises:
        ValueError: The limits contradict each other, or a component is unlimited.
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
        smallest = float(np.linalg.norm(self._limited(np.clip(np.zeros(size), self.low, self.high))))
        if not smallest <= self.max_norm * NORM_ROUNDING:
            raise ValueError(
                f"max_norm must be at least the norm of the smallest action in the box ({smallest:g}), got "
                f"{self.max_norm}"
            )

    @classmethod
    def of(cls, manifest: Manifest) -> ActionLimits:
        """Return the limits of a model, within which it was trained."""
        action = manifest.io.action
        return cls(
            low=np.asarray(action.low, np.float32),
            high=np.asarray(action.high, np.float32),
            max_norm=action.max_norm,
        )

    def clip(self, actions: Floats32, previous: Floats32 | None = None) -> Floats32:
        """Return ``actions`` projected onto the limits; allowed actions are unchanged, bit for bit.

        Each action is first clipped to the box, then moved towards the smallest action of the box until its
        norm is allowed. With ``max_change`` the box is the part that is reachable from the previous action.

        Args:
            actions: [..., A]; with ``max_change`` sequences [..., H, A].
            previous: Last executed action [A]; None: the first action is not restricted. If it exceeds the
                limits, the nearest allowed action counts.

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

    def approach(self, action: Floats32, previous: Floats32, proportion: float) -> Floats32:
        """Return the action nearest to ``action`` that is reachable within a part of a step, float32 [A].

        Args:
            action: Target [A].
            previous: Action [A] executed until then. If it exceeds the limits, the nearest allowed action
                counts.
            proportion: Part of ``max_change``, from 0 to 1.
        """
        return self._within_reach(action, self._within(previous, self.low, self.high), proportion)

    def effort(self, action: NDArray[np.floating]) -> float:
        """Return the size of ``action`` [A]: 0 at rest, 1 if a component or the norm is at its limit."""
        limit = np.maximum(np.abs(self.low), np.abs(self.high))
        size = np.abs(action)
        effort = float(np.max(np.divide(size, limit, out=np.zeros(size.shape), where=limit > 0), initial=0.0))
        if self.max_norm:
            effort = max(effort, float(np.linalg.norm(self._limited(np.asarray(action)))) / self.max_norm)
        return effort

    def forbids(self, action: Floats32, previous: Floats32 | None = None) -> str:
        """Return why ``action`` [A] is forbidden after ``previous`` [A] (None: any); empty: it is allowed."""
        if not np.isfinite(action).all():
            return f"the action {action.tolist()} is not finite"
        nearest = self.clip(action[None], previous)[0]
        if not np.array_equal(nearest, action):
            return (
                f"the action {action.tolist()} is beyond the limits; the nearest allowed is "
                f"{nearest.tolist()}"
            )
        return ""

    def _within_reach(self, actions: Floats32, previous: Floats32 | None, proportion: float) -> Floats32:
        """Project onto the limits and onto this part of ``max_change`` around ``previous``."""
        if previous is None or self.max_change is None:
            return self._within(actions, self.low, self.high)
        reach = self.max_change * np.float32(proportion)
        return self._within(
            actions, np.maximum(self.low, previous - reach), np.minimum(self.high, previous + reach)
        )

    def _within(self, actions: Floats32, low: Floats32, high: Floats32) -> Floats32:
        """Project onto the box and the norm; the box contains an action of allowed norm."""
        actions = np.clip(actions, low, high).astype(np.float32, copy=False)
        if self.max_norm is None:
            return actions
        limited = self._limited(actions)
        norm = np.linalg.norm(limited, axis=-1, keepdims=True)
        if not (norm > self.max_norm * NORM_ROUNDING).any():
            return actions
        smallest = self._limited(np.clip(np.float32(0), low, high))
        if smallest.any():
            shorter = _shortened(limited, smallest, self.max_norm)
        else:
            shorter = limited * np.minimum(1.0, self.max_norm / np.maximum(norm, 1e-9)).astype(np.float32)
        shorter = np.where(norm > self.max_norm * NORM_ROUNDING, shorter, limited)
        if self.norm_components is None:
            return shorter
        actions[..., list(self.norm_components)] = shorter
        return actions

    def _limited(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the components whose norm is limited."""
        return actions if self.norm_components is None else actions[..., list(self.norm_components)]


def _shortened(actions: Floats32, smallest: Floats32, max_norm: float) -> Floats32:
    """Return the points on the lines from ``smallest`` to ``actions`` where the norm is ``max_norm``.

    With a = smallest and d = actions - smallest: the root t of |a + t d|² = max_norm². Computed in double
    precision, so that rounding to single precision stays below :data:`NORM_ROUNDING`.
    """
    start = smallest.astype(np.float64)
    line = actions - start
    along = np.sum(start * line, axis=-1, keepdims=True)
    length = np.maximum(np.sum(line * line, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    room = np.maximum(max_norm**2 - np.sum(start * start, axis=-1, keepdims=True), 0.0)
    position = (np.sqrt(along**2 + length * room) - along) / length
    shortened: Floats32 = (start + position * line).astype(np.float32)
    return shortened
