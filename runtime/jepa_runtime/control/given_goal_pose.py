"""Whether the given poses of a goal follow the commanded motion. Without ROS; the caller passes the time.

A client whose estimate of the pose hangs, or begins again and again, publishes poses that look valid: the
goal stays ahead of the robot, which would drive on forever. A robot that moves as commanded approaches the
goal as far as its commands say. The poses are compared with that in sections of commanded motion, and what
they differ by is summed up, less what slip and noise explain. Sections in which the images do not show the
motion either add nothing: the robot is blocked, which the safety monitor checks.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from jepa_runtime.control.goal_pose import SentCommands
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.util.poses import TURN_M, Pose, compose, relative, wrap

# Commanded change of the pose after which the given one is compared with it; turns count as TURN_M.
_SECTION_M = 0.4
# Difference of a section that slip and noise explain, as a proportion of the commanded change.
_EXPECTED_ERROR = 0.5
# Sum of unexplained differences at which the goal is aborted: that of poses that hang for three sections.
_LIMIT_M = 0.6


@dataclass
class _Section:
    """Poses [3] of a goal in the frame of the robot: at the start, expected by the commands, and given."""

    start: Pose
    expected: Pose
    given: Pose
    time_s: float
    goal_ns: int

    def add(self, given: Pose, time_s: float, commands: SentCommands) -> None:
        """Add a pose of the same goal."""
        self.expected = relative(commands.motion(self.time_s, time_s), self.expected)
        self.given, self.time_s = given, time_s

    def change_goal(self, given: Pose, time_s: float, goal_ns: int) -> None:
        """Add the first pose of another goal: nothing shows the motion since the last one of this goal."""
        inverse = relative(self.given, np.zeros(3))
        self.start = compose(compose(self.start, inverse), given)
        self.expected = compose(compose(self.expected, inverse), given)
        self.given, self.time_s, self.goal_ns = given, time_s, goal_ns


class GivenPoseCheck:
    """Sums up by how much the given poses of a goal differ from the commanded motion."""

    def __init__(self) -> None:
        self._unexplained_m = 0.0
        self._section: _Section | None = None

    def reset(self) -> None:
        """Forget all poses, since another goal is requested."""
        self._unexplained_m, self._section = 0.0, None

    def add(
        self, given: RelativePose, goal_ns: int, *, time_s: float, commands: SentCommands, is_blocked: bool
    ) -> str:
        """Add a pose; return why the robot must not drive by these poses, or an empty string.

        Args:
            given: The pose. Values that are not finite count as unknown.
            goal_ns: Stamp of the goal. A section continues with a goal further on.
            time_s: Time of the image in whose frame the pose is, by the clock of ``commands``.
            commands: The commands that were sent.
            is_blocked: The images do not show the commanded motion.
        """
        pose: Pose = np.array(astuple(given)[:3], np.float64)
        if not np.isfinite(pose).all():
            return ""
        section = self._section
        if section is None or time_s < section.time_s:
            # The first pose, or the clock of the stamps was set back.
            self._section = _Section(pose, pose, pose, time_s, goal_ns)
            return ""
        if goal_ns == section.goal_ns:
            section.add(pose, time_s, commands)
        else:
            section.change_goal(pose, time_s, goal_ns)
        commanded_m = _apart_m(section.start, section.expected)
        if commanded_m < _SECTION_M:
            return ""
        self._section = _Section(pose, pose, pose, time_s, goal_ns)
        unexplained_m = _apart_m(section.expected, pose) - _EXPECTED_ERROR * commanded_m
        if is_blocked:
            unexplained_m = min(unexplained_m, 0.0)
        self._unexplained_m = max(self._unexplained_m + unexplained_m, 0.0)
        if self._unexplained_m < _LIMIT_M:
            return ""
        return (
            "the poses that the client of the goal publishes do not show the commanded motion, which the "
            f"images show: they differ by {self._unexplained_m:.1f} m more than expected; its estimate hangs "
            "or is reset"
        )


def _apart_m(one: Pose, other: Pose) -> float:
    """Return the size of the difference between two poses in one frame, where turns count as TURN_M."""
    return math.hypot(one[0] - other[0], one[1] - other[1], TURN_M * wrap(one[2] - other[2]))
