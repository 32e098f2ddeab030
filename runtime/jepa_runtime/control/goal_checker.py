"""Whether the robot has reached its goal."""

from __future__ import annotations

# A reached goal is left only by a clear margin, so that noise does not set the robot in motion.
_LEAVE_FACTOR = 2.0


class GoalChecker:
    """Decides from the energies of consecutive images, and from the pose of the goal, whether it is reached.

    Args:
        threshold: Energy at or below which an image counts.
        images: Consecutive images that must count.

    Attributes:
        threshold: Maximum energy at the goal; may be changed.
        is_reached: Result of the last :meth:`update`.
    """

    def __init__(self, threshold: float, *, images: int) -> None:
        self.threshold = threshold
        self._images = images
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.is_reached = False
        self._count = 0

    def update(self, energy: float, pose_ratio: float = 0.0) -> bool:
        """Add a new image and return whether the goal is reached.

        Args:
            energy: Energy of the image to the goal.
            pose_ratio: How far away the goal is, as a multiple of the tolerance; 0: unknown.
        """
        factor = _LEAVE_FACTOR if self.is_reached else 1.0
        is_at_goal = energy <= self.threshold * factor and pose_ratio <= factor
        self._count = self._count + 1 if is_at_goal else 0
        self.is_reached = self._count >= self._images
        return self.is_reached
