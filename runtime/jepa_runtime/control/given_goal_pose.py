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
_EXPECTED_ERROR = 0.45
# Largest difference of a section that counts: any estimate may be corrected once, by any amount.
_MAX_DIFFERENCE_M = 0.55
# Sum of unexplained differences at which the goal is aborted: that of poses that hang for three sections.
_LIMIT_M = 0.6
# A pose that is older than the last one by less is out of order; otherwise the clock was set back.
_CLOCK_SET_BACK_S = 1.0


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
        to_new_goal = compose(_robot(self.given), given)
        self.start, self.expected = compose(self.start, to_new_goal), compose(self.expected, to_new_goal)
        self.given, self.time_s, self.goal_ns = given, time_s, goal_ns

    def is_out_of_order(self, time_s: float, goal_ns: int) -> bool:
        """Return whether a pose is of an earlier image, or of the same one again, and no clock was set."""
        back_s = self.time_s - time_s
        return 0 < back_s < _CLOCK_SET_BACK_S or (back_s == 0 and goal_ns == self.goal_ns)

    @property
    def commanded_m(self) -> float:
        """The commanded motion of the robot."""
        return _apart_m(_robot(self.start), _robot(self.expected))

    @property
    def difference_m(self) -> float:
        """By how much the given poses differ from the commanded motion.

        It is the smaller one of the differences between the poses of the goal and between those of the robot
        in the frame of the goal. If the goal is far, the former contains the errors of the robot's heading,
        and the latter those of the goal's, in proportion to the distance.
        """
        robot_m = _apart_m(_robot(self.expected), _robot(self.given))
        return min(_apart_m(self.expected, self.given), robot_m)


class GivenPoseCheck:
    """Sums up by how much the given poses of goals differ from the commanded motion.

    Another request does not reset it: its client may be the same one.
    """

    def __init__(self) -> None:
        self._unexplained_m = 0.0
        self._section: _Section | None = None

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
        if section is not None and section.is_out_of_order(time_s, goal_ns):
            return ""
        if section is None or time_s < section.time_s:
            self._section = _Section(pose, pose, pose, time_s, goal_ns)
            return ""
        if goal_ns == section.goal_ns:
            section.add(pose, time_s, commands)
        else:
            section.change_goal(pose, time_s, goal_ns)
        if section.commanded_m < _SECTION_M:
            return ""
        self._section = _Section(pose, pose, pose, time_s, goal_ns)
        unexplained_m = min(section.difference_m, _MAX_DIFFERENCE_M) - _EXPECTED_ERROR * section.commanded_m
        if is_blocked:
            unexplained_m = min(unexplained_m, 0.0)
        unexplained_m = max(self._unexplained_m + unexplained_m, 0.0)
        self._unexplained_m = 0.0 if unexplained_m >= _LIMIT_M else unexplained_m
        if unexplained_m < _LIMIT_M:
            return ""
        return (
            "the poses that the client of the goal publishes do not show the commanded motion, which the "
            f"images show: they differ by {unexplained_m:.1f} m more than expected; its estimate hangs "
            "or is reset"
        )


def _robot(goal: Pose) -> Pose:
    """Return the pose of the robot in the frame of the goal."""
    return relative(goal, np.zeros(3))


def _apart_m(one: Pose, other: Pose) -> float:
    """Return the size of the difference between two poses in one frame, where turns count as TURN_M."""
    return math.hypot(one[0] - other[0], one[1] - other[1], TURN_M * wrap(one[2] - other[2]))
