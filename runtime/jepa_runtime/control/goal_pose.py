"""The pose of the goal when a command takes effect, from the poses that the model reads of the images.

The robot moves on between an image and the command that answers it, and from image to image, under commands
that are known. A differential drive that executes them moves along arcs, so the pose of the goal in the frame
of the robot is advanced by them, and readings are averaged over a short time. Odometry, where there is any,
measures the motion from image to image instead, so that readings of all places count. Without ROS; the caller
passes the clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import astuple, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.goal_particles import GoalParticles
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.util.odometry_history import OdometryPose
from jepa_runtime.util.poses import Pose, compose, relative, wrap

# Time over which readings are averaged. A longer average would rely on the commands more than on the images.
_MEMORY_S = 0.4
# A robot does not move faster: odometry that does was reset.
_MAX_SPEED_MPS, _MAX_TURN_RADPS = 5.0, 10.0
# Age at which the estimate is forgotten.
_FORGOTTEN_S = 10.0
# Smallest standard deviations of a reading: position [m], yaw [rad].
_LEAST_STD_M, _LEAST_STD_RAD = 0.02, 0.01
# Normalized square error from which a reading counts less.
_OUTLIER = 9.0
# Commands this old are dropped. No image is older: the controller stops the robot earlier.
_COMMANDS_S = 60.0


class SentCommands:
    """The commands that were sent to a differential drive, and where it is after them.

    Args:
        drive: Components of the commands.
    """

    def __init__(self, drive: DifferentialDrive) -> None:
        self._drive = drive
        self._commands: deque[tuple[float, NDArray[np.float32]]] = deque()

    def add(self, action: NDArray[np.floating], now_s: float) -> None:
        """Add a command [A], which is in force from ``now_s`` on."""
        while self._commands and self._commands[-1][0] >= now_s:
            self._commands.pop()
        while len(self._commands) > 1 and self._commands[1][0] < now_s - _COMMANDS_S:
            self._commands.popleft()
        self._commands.append((now_s, np.array(action, np.float32)))

    def motion(self, start_s: float, end_s: float) -> Pose:
        """Return the pose [3] at ``end_s`` in the frame of the robot at ``start_s``.

        The robot stands before the first command.
        """
        pose: Pose = np.zeros(3)
        ends_s = end_s
        motions: list[Pose] = []
        for begins_s, action in reversed(self._commands):
            duration_s = ends_s - max(begins_s, start_s)
            if duration_s > 0:
                motions.append(self._drive.motion(action, duration_s))
                ends_s = max(begins_s, start_s)
            if begins_s <= start_s:
                break
        for motion in reversed(motions):
            pose = compose(pose, motion)
        return pose


class GoalPoseEstimator:
    """Estimates the pose of the goal in the frame of the robot.

    It is an average of the readings, weighted by their variances and their age; consecutive images err alike,
    so that the readings of the averaged time count as one. A reading that contradicts the estimate counts
    less, until the estimate is old. Without readings, and with readings that contradict each other, the
    estimate becomes less certain. With odometry, :class:`GoalParticles` estimates it instead, so that a robot
    that looks around still knows where the goal was when it was in view.

    Args:
        drive: Components of the commands.
        seed: Seed of the particles.

    Attributes:
        commands: The commands that were sent.
        read_s: Time of the newest reading, or of the first image of the goal.
    """

    def __init__(self, drive: DifferentialDrive, *, seed: int = 0) -> None:
        self.commands = SentCommands(drive)
        self._seed = seed
        self.read_s = -math.inf
        self._goal_ns: int | None = None
        # Announced goals beyond the present one.
        self._continued_ns: set[int] = set()
        self._image_s = -math.inf
        self._odometry: OdometryPose | None = None
        # x, y, yaw [3] at the newest image; None: unknown. Its precisions (inverse variances) [3] by those of
        # the readings, and the mean squares of the differences between them [3].
        self._pose: Pose | None = None
        self._precision: Pose = np.zeros(3)
        self._spread: Pose = np.zeros(3)
        # The same with odometry, from the first reading on.
        self._particles: GoalParticles | None = None

    def continue_to(self, goal_ns: int) -> None:
        """Note that the goal with this stamp lies beyond the present one: drive to that until it is read."""
        self._continued_ns.add(goal_ns)

    def update(
        self,
        reading: RelativePose | None,
        goal_ns: int,
        *,
        image_s: float,
        effect_s: float,
        odometry: OdometryPose | None = None,
        read_s: float | None = None,
    ) -> RelativePose | None:
        """Add an image and return the pose of the goal when the next command takes effect; None: unknown.

        Args:
            reading: Pose of the goal in the frame of the image at ``read_s``; None: not read. Values that are
                not finite count as not read.
            goal_ns: Stamp of the goal.
            image_s: Time of the image.
            effect_s: Time at which the next command takes effect.
            odometry: Pose of the robot at the image by odometry; None: unknown.
            read_s: Time of the image of the reading; None: ``image_s``.
        """
        read_s = image_s if read_s is None else read_s
        read = None if reading is None else _validated(reading)
        self._change_goal(goal_ns, is_read=read is not None, image_s=image_s)
        weight = self._advance(image_s, odometry)
        if read is not None:
            pose, variance = self._moved(read[0], read_s, image_s), read[1]
            self._average(pose, variance, weight)
            if self._odometry is not None:
                self._add_to_particles(RelativePose(*pose.tolist(), *np.sqrt(variance[1:]).tolist()))
            self.read_s = read_s
        self._image_s = image_s
        return self._at(effect_s)

    def _moved(self, pose: Pose, start_s: float, end_s: float) -> Pose:
        """Return a pose in the frame of the robot at ``start_s`` in that at ``end_s``."""
        if end_s < start_s:
            return compose(self.commands.motion(end_s, start_s), pose)
        return relative(self.commands.motion(start_s, end_s), pose)

    def _change_goal(self, goal_ns: int, *, is_read: bool, image_s: float) -> None:
        if goal_ns == self._goal_ns:
            return
        is_beyond = goal_ns in self._continued_ns
        if is_beyond and not is_read:
            return
        self._goal_ns, self._pose, self._particles = goal_ns, None, None
        self._continued_ns = {stamp_ns for stamp_ns in self._continued_ns if stamp_ns > goal_ns}
        if not is_beyond:
            self.read_s = image_s

    def _advance(self, image_s: float, odometry: OdometryPose | None) -> float:
        """Move the estimate to an image; return the weight of a reading of that image."""
        elapsed_s = max(image_s - self._image_s, 0.0)
        if odometry is not None and not np.isfinite(odometry.pose).all():
            odometry = None
        measured = self._measured_motion(odometry, elapsed_s)
        self._odometry = odometry
        if self._pose is None or elapsed_s > _FORGOTTEN_S:
            self._pose = self._particles = None
            return 1.0
        if measured is None:
            self._particles = None
        elif self._particles is not None:
            self._particles.move(measured, elapsed_s)
        motion = self.commands.motion(self._image_s, image_s) if measured is None else measured
        remaining = math.exp(-elapsed_s / _MEMORY_S)
        self._pose = relative(motion, self._pose)
        self._precision = remaining * self._precision
        return 1 - remaining

    def _measured_motion(self, odometry: OdometryPose | None, elapsed_s: float) -> Pose | None:
        """Return the motion since the last image by odometry; None: there is none, or it was reset."""
        if odometry is None or self._odometry is None or odometry.part != self._odometry.part:
            return None
        motion = relative(np.array(self._odometry.pose), np.array(odometry.pose))
        too_far = math.hypot(motion[0], motion[1]) > _MAX_SPEED_MPS * elapsed_s
        return None if too_far or abs(motion[2]) > _MAX_TURN_RADPS * elapsed_s else motion

    def _average(self, read: Pose, variance: Pose, weight: float) -> None:
        if self._pose is None:
            self._pose, self._precision, self._spread = read, 1 / variance, np.zeros(3)
            return
        error = read - self._pose
        error[2] = wrap(error[2])
        squares = np.square(error)
        squares[:2] = squares[:2].mean()
        normalized = squares / (variance + 1 / self._precision)
        added = weight / (variance * np.maximum(normalized / _OUTLIER, 1.0))
        self._precision = self._precision + added
        gain = added / self._precision
        self._pose = self._pose + gain * error
        self._spread = (1 - gain) * (self._spread + gain * squares)

    def _add_to_particles(self, reading: RelativePose) -> None:
        if self._particles is None:
            self._particles = GoalParticles(reading, seed=self._seed)
        else:
            self._particles.add(reading)

    def _at(self, effect_s: float) -> RelativePose | None:
        estimate = self._estimate()
        if estimate is None:
            return None
        pose = np.array([estimate.x_m, estimate.y_m, estimate.yaw_rad])
        x, y, yaw = relative(self.commands.motion(self._image_s, effect_s), pose).tolist()
        return replace(estimate, x_m=x, y_m=y, yaw_rad=yaw)

    def _estimate(self) -> RelativePose | None:
        """Return the pose of the goal at the newest image."""
        if self._particles is not None:
            return self._particles.estimate()
        if self._pose is None:
            return None
        x, y, yaw = self._pose.tolist()
        position_std_m, _, yaw_std_rad = np.sqrt(np.maximum(1 / self._precision, self._spread)).tolist()
        return RelativePose(x, y, yaw, position_std_m, yaw_std_rad)


def _validated(reading: RelativePose) -> tuple[Pose, Pose] | None:
    """Return the pose [3] and its variances [3]; None: it is not valid."""
    values = np.array(astuple(reading), np.float64)
    if not np.isfinite(values).all() or (values[3:] <= 0).any():
        return None
    position_std_m, yaw_std_rad = np.maximum(values[3:], (_LEAST_STD_M, _LEAST_STD_RAD))
    return values[:3], np.square([position_std_m, position_std_m, yaw_std_rad])
