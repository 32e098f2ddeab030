"""The last poses of a robot's odometry, and the pose at the time of an image.

Odometry and images have stamps of one clock but arrive at different times. Without ROS; not thread-safe.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from jepa_runtime.errors import OdometryError
from jepa_runtime.util.poses import Pose, compose, relative

PoseTuple = tuple[float, float, float]
"""x [m], y [m], yaw [rad]."""

# A motion that is both as large and as fast is a jump, such as a reset of the base: [m], [m/s], [rad],
# [rad/s].
_JUMP_M, _JUMP_MPS = 0.3, 15.0
_JUMP_RAD, _JUMP_RADPS = 0.5, 4 * math.pi


@dataclass(frozen=True)
class OdometryPose:
    """A pose of odometry.

    Attributes:
        pose: x [m], y [m], yaw [rad].
        part: Number of the continuous part of the odometry. Motion is known only between poses of one part.
    """

    pose: PoseTuple
    part: int

    @classmethod
    def of(cls, pose: Pose) -> OdometryPose:
        """Return a pose [3] of odometry that is continuous throughout, such as that of a simulated robot."""
        x, y, yaw = pose.tolist()
        return cls((x, y, yaw), part=0)


@dataclass(frozen=True)
class _Sample:
    stamp_ns: int
    pose: PoseTuple
    part: int


class OdometryHistory:
    """Stores the last poses of odometry, and interpolates them.

    A new part begins after a gap, and where the pose jumps.

    Args:
        timeout_s: Longest time from a pose to a stamp at which it still holds, and between two poses of a
            part.
        memory_s: Poses older than this are dropped; infinite: none.

    Attributes:
        timeout_s: The same; may be changed.

    Raises:
        ValueError: A time is not positive.
    """

    def __init__(self, *, timeout_s: float = 0.5, memory_s: float = 10.0) -> None:
        if not (timeout_s > 0 and memory_s > 0):
            raise ValueError(f"timeout_s and memory_s must be positive, got {timeout_s:g} and {memory_s:g}")
        self.timeout_s = timeout_s
        self._memory_s = memory_s
        self._samples: list[_Sample] = []

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, stamp_ns: int, pose: PoseTuple) -> None:
        """Add the next pose.

        A stamp that lies before the previous one by more than the timeout means that the clock was set back,
        as when a simulation is reset: the history then begins again, with another part.

        Args:
            stamp_ns: Its stamp.
            pose: x [m], y [m], yaw [rad].

        Raises:
            OdometryError: A value is not finite, or the stamp does not increase. The pose is not stored.
        """
        if not all(math.isfinite(value) for value in pose):
            raise OdometryError(f"a pose of odometry is not finite: {pose}", code="odometry.pose_invalid")
        part = 0
        if self._samples:
            last = self._samples[-1]
            elapsed_s = (stamp_ns - last.stamp_ns) / 1e9
            if -self.timeout_s <= elapsed_s <= 0:
                raise OdometryError(
                    f"the stamp of an odometry message lies {-elapsed_s:.3f} s before that of the previous "
                    "one, or repeats it: odometry must have one publisher, whose stamps increase",
                    code="odometry.time_backward",
                )
            is_continuous = 0 < elapsed_s <= self.timeout_s and not _is_jump(last.pose, pose, elapsed_s)
            part = last.part + (not is_continuous)
            if elapsed_s < 0:
                self._samples.clear()
        self._samples.append(_Sample(stamp_ns, pose, part))
        self._drop_old()

    def at(self, stamp_ns: int) -> OdometryPose:
        """Return the pose at a stamp.

        Between two poses of a part it is interpolated, and shortly after the newest one extrapolated.

        Raises:
            OdometryError: There is no odometry around this stamp.
        """
        samples = self._samples
        if not samples:
            raise OdometryError("no odometry was received", code="odometry.missing")
        index = bisect_right(samples, stamp_ns, key=lambda sample: sample.stamp_ns) - 1
        before = samples[max(index, 0)]
        age_s = (stamp_ns - before.stamp_ns) / 1e9
        after = samples[index + 1] if 0 <= index < len(samples) - 1 else None
        if after is not None and after.part == before.part:
            proportion = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
            return OdometryPose(_between(before.pose, after.pose, proportion), before.part)
        if age_s < -self.timeout_s:
            raise OdometryError(
                f"the image is {-age_s:.2f} s older than the oldest stored odometry: check that both use the "
                "same clock",
                code="odometry.image_too_old",
            )
        if age_s > self.timeout_s:
            raise OdometryError(
                f"the newest odometry is {age_s:.2f} s older than the image (limit: {self.timeout_s:g} s)",
                code="odometry.too_old",
            )
        if age_s <= 0 or index == 0 or samples[index - 1].part != before.part:
            return OdometryPose(before.pose, before.part)
        # Not further than the last motion: the time between two poses may be short.
        earlier = samples[index - 1]
        ahead = min((stamp_ns - before.stamp_ns) / (before.stamp_ns - earlier.stamp_ns), 1.0)
        return OdometryPose(_between(earlier.pose, before.pose, 1 + ahead), before.part)

    def _drop_old(self) -> None:
        if not math.isfinite(self._memory_s):
            return
        oldest_ns = self._samples[-1].stamp_ns - round(self._memory_s * 1e9)
        # Rarely, since the beginning of a list is slow to drop.
        if self._samples[len(self._samples) // 2].stamp_ns < oldest_ns:
            del self._samples[: bisect_right(self._samples, oldest_ns, key=lambda sample: sample.stamp_ns)]


def _is_jump(start: PoseTuple, end: PoseTuple, elapsed_s: float) -> bool:
    x, y, yaw = relative(np.array(start), np.array(end)).tolist()
    moved_m, turned_rad = math.hypot(x, y), abs(yaw)
    return (moved_m > _JUMP_M and moved_m > _JUMP_MPS * elapsed_s) or (
        turned_rad > _JUMP_RAD and turned_rad > _JUMP_RADPS * elapsed_s
    )


def _between(start: PoseTuple, end: PoseTuple, proportion: float) -> PoseTuple:
    """Return the pose after a proportion of a motion, along which the yaw changes evenly."""
    motion = relative(np.array(start), np.array(end))
    x = start[0] + proportion * (end[0] - start[0])
    y = start[1] + proportion * (end[1] - start[1])
    yaw = compose(np.array(start), np.array([0.0, 0.0, proportion * motion[2]]))[2]
    return x, y, float(yaw)
