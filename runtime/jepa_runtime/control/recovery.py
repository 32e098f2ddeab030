"""Recovery behaviors: a harmless motion of a stuck robot, and directions to avoid in front of an obstacle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A recovery motion is harmless if the energy to the goal is predicted to rise by at most this proportion.
_HARMLESS = 0.1


class RecoveryMotion:
    """A slow motion of a stuck robot in one random direction that the model predicts to be harmless.

    Args:
        duration_ns: Duration of the motion; 0: there is none.

    Attributes:
        duration_ns: Duration of the motion.
        is_requested: Candidates for a motion are wanted.
        until_ns: Image stamp at which the motion ends.
    """

    def __init__(self, duration_ns: int) -> None:
        self.duration_ns = duration_ns
        self.reset()

    def reset(self) -> None:
        """Cancel the motion and any request for one."""
        self.is_requested = False
        self.until_ns = 0
        self._candidates: NDArray[np.float32] | None = None
        self._action: NDArray[np.float32] | None = None

    @property
    def awaits_futures(self) -> bool:
        """Whether candidates for a motion are being evaluated."""
        return self._candidates is not None

    def request(self) -> None:
        """Ask for a motion, if there is one."""
        self.is_requested = self.duration_ns > 0

    def propose(self, candidates: NDArray[np.float32] | None) -> None:
        """Note the candidates [K, H, A] for a motion that are evaluated next; None: others are."""
        self._candidates = candidates

    def start(self, energies: NDArray[np.float32], current_energy: float, stamp_ns: int) -> bool:
        """Start the first harmless candidate.

        Args:
            energies: Energies [K, H] of the candidates.
            current_energy: Energy of the image.
            stamp_ns: Stamp of the image.

        Returns:
            Whether a candidate is harmless.
        """
        candidates, self._candidates, self.is_requested = self._candidates, None, False
        rises = energies.max(axis=1) - current_energy
        harmless = np.flatnonzero(rises <= _HARMLESS * abs(current_energy))
        if candidates is None or not len(harmless):
            return False
        self._action = candidates[harmless[0], 0]
        self.until_ns = stamp_ns + self.duration_ns
        return True

    def action(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """Return the action [A] of the motion in progress at this stamp, or None."""
        return self._action if stamp_ns < self.until_ns else None


class BlockedDirections:
    """Directions in which the robot did not move as predicted.

    Candidates that start in such a direction are rejected, until the robot has driven for a while. The
    remaining set is convex: the mean of allowed actions is allowed.

    Args:
        duration_ns: Driving time after which the directions are allowed again.
    """

    def __init__(self, duration_ns: int) -> None:
        self._duration_ns = duration_ns
        self.reset()

    def reset(self) -> None:
        """Allow all directions."""
        self._blocked: NDArray[np.floating] | None = None
        self._detour: NDArray[np.floating] | None = None
        # Actions with a positive component along one of these are rejected.
        self._normals: list[NDArray[np.floating]] = []
        self._is_confirmed = True
        self._remaining_ns = 0

    def add(self, action: NDArray[np.floating]) -> None:
        """Reject the direction of ``action`` [A].

        First actions with a larger component along it than across it are rejected. Of the directions across
        it, the one with the best predicted plan is used. Until :meth:`confirm_motion`, actions across it at
        less than half its speed are rejected too, since slow motion is hard to see, and so are the directions
        that were blocked before.
        """
        if self._is_confirmed:
            self._normals = []
        self._blocked, self._remaining_ns = np.array(action, np.float32), self._duration_ns
        self._detour, self._is_confirmed = None, False

    def confirm_motion(self) -> None:
        """Note that images show the robot's motion."""
        self._is_confirmed = True

    def add_time(self, elapsed_ns: int) -> None:
        """Add time in which the robot was driving."""
        self._remaining_ns -= elapsed_ns
        if self._remaining_ns <= 0:
            self._blocked = None

    def costs(self, costs: NDArray[np.floating], first: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return ``costs`` [K] with those of rejected candidates set to infinity.

        Args:
            costs: Cost of each candidate.
            first: First action [K, A] of each candidate.
        """
        if self._blocked is None:
            return costs
        speed = np.linalg.norm(self._blocked)
        forward = self._blocked / speed
        if self._detour is None:
            allowed_costs = np.where(self._rejected(first), np.inf, costs)
            self._detour = _best_direction_across(first, allowed_costs, forward)
            self._normals.append(forward - self._detour)
        rejected = self._rejected(first)
        if self._detour.any() and not self._is_confirmed:
            rejected |= first @ self._detour < speed / 2
        return np.where(rejected, np.inf, costs)

    def _rejected(self, first: NDArray[np.floating]) -> NDArray[np.bool_]:
        normals = np.reshape(self._normals, (-1, first.shape[1]))
        rejected: NDArray[np.bool_] = (first @ normals.T > 0).any(axis=1)
        return rejected


def _best_direction_across(
    first: NDArray[np.floating], costs: NDArray[np.floating], forward: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the unit vector [A] across ``forward`` of the best action that goes across more than forward.

    Args:
        first: First action [K, A] of each candidate.
        costs: Cost [K] of each candidate.
        forward: Unit vector [A].

    Returns:
        Zeros if no action goes across more than forward.
    """
    along = first @ forward
    across = first - along[:, None] * forward
    sizes = np.linalg.norm(across, axis=1)
    eligible = (sizes >= along) & (sizes > 1e-6) & np.isfinite(costs)
    if not eligible.any():
        return np.zeros_like(forward)
    best = int(np.argmin(np.where(eligible, costs, np.inf)))
    direction: NDArray[np.floating] = across[best] / sizes[best]
    return direction
