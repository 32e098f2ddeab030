"""Where on a route the robot is: a discrete Bayes filter over the key frames.

Each key frame is a place. One more state stands for every place off the route. The motion prior moves the
probability along the route as fast as the robot is commanded to drive, compared with the taught drive, or as
far as its odometry has moved. The likelihood of a place is exp(-energy / scale), where the energy is that
between its key frame and the newest image, and the scale is half the median energy between neighboring key
frames.

Where the model reads relative poses, and robot and route have odometry, a :class:`PoseFilter` also estimates
the robot's pose in the frame of the route, from which the pose of a key frame follows that is not in view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.routes.pose_filter import PoseFilter
from jepa_runtime.routes.route import Floats, Route
from jepa_runtime.util.poses import compose, relative, travel_m

# Energies are counted once in this time: consecutive images are not independent.
_CORRELATION_S = 0.3
# Longer gaps say nothing about the motion: the robot may be anywhere near.
_MAX_GAP_S = 1.0
# Key frames on each side of the best one that count as the same place.
_NEAR = 2
# Key frames whose relative poses are read from each image.
_READ = 3
# A certain place this far from the estimated pose begins another estimate.
_ELSEWHERE_M = 2.0
# Motion since a certain place, and distance from the route, within which odometry alone tells the place.
_TRACKED_M, _ON_ROUTE_M = 1.0, 0.4
# Diffusion, in key frames per second, of a robot that stands, and in key frames per key frame of motion.
_STANDING_DRIFT, _MOVING_DRIFT = 0.05, 0.3
# Fastest motion, as a multiple of the taught speed, that a command can ask for.
_MAX_SPEED_RATIO = 4.0


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig:
    """Settings of the localizer.

    Attributes:
        window: Key frames on each side of the place whose energies are needed per image.
        max_scored: Maximum number of key frames that are scored at once, for long routes.
        leaves_per_s: Rate at which a robot on the route may have been moved elsewhere, per second.
        returns_per_s: The same for a robot off the route that may be anywhere on it.
        min_confidence: Confidence below which the whole route is scored.
        arrival_m: Distance at which the robot is at a key frame, if its pose is estimated.
        arrival_rad: The same for its heading.

    Raises:
        ValueError: A value is out of range.
    """

    window: int = 12
    max_scored: int = 256
    leaves_per_s: float = 0.02
    returns_per_s: float = 1.0
    min_confidence: float = 0.5
    arrival_m: float = 0.15
    arrival_rad: float = 0.15

    def __post_init__(self) -> None:
        if self.window < _NEAR + 1 or self.max_scored < 2 * self.window + 1:
            raise ValueError(
                f"window must be at least {_NEAR + 1} and max_scored at least 2 * window + 1, got "
                f"{self.window} and "
                f"{self.max_scored}"
            )
        if not (self.leaves_per_s > 0 and self.returns_per_s > 0 and 0 < self.min_confidence < 1):
            raise ValueError("rates must be positive, and min_confidence between 0 and 1")
        if not (self.arrival_m > 0 and self.arrival_rad > 0):
            raise ValueError("arrival_m and arrival_rad must be positive")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the robot is.

    Attributes:
        key_frame: The most likely key frame.
        index: The mean index of the key frames around it, as a fraction.
        progress: The place on the route, from 0 to 1.
        confidence: Probability that the robot is around that key frame.
        contrast: The same, given that it is on the route.
        entropy: Entropy of the probabilities, from 0 (certain) to 1.
        energy: Lowest energy around that key frame; NaN: unknown.
        is_tracked: By odometry, the robot is on the route and has hardly moved since the place was certain.
    """

    key_frame: int
    index: float
    progress: float
    confidence: float
    contrast: float
    entropy: float
    energy: float
    is_tracked: bool = False


class RouteLocalizer:
    """Estimates the place from the energies of each image.

    Args:
        route: The route.
        config: Settings.
        start: Key frame at which the robot starts; None: anywhere.
        reads_poses: The model reads relative poses.

    Attributes:
        place: The newest estimate.
    """

    def __init__(
        self,
        route: Route,
        config: LocalizerConfig | None = None,
        *,
        start: int | None = None,
        reads_poses: bool = False,
    ) -> None:
        self._route = route
        self._config = LocalizerConfig() if config is None else config
        count = len(route)
        self._scale = route.near_energy / 2
        # Time from each key frame to the next.
        gaps_s = np.diff(route.times_s)
        self._gaps_s = _to_next(np.minimum(gaps_s, 2 * float(np.median(gaps_s))))
        self._effort = _mean_effort(route)
        self._off_route = 0.1
        self._on_route: NDArray[np.float64] = np.full(count, 0.9 / count)
        if start is not None:
            around = np.exp(-0.5 * ((np.arange(count) - start) / _NEAR) ** 2)
            self._on_route = 0.9 * around / around.sum()
        self._stamp_ns: int | None = None
        self._pose: tuple[float, float, float] | None = None
        self._last: tuple[bytes, bytes] | None = None
        self._unseen_m = math.nan
        # Poses of the key frames if they can be read, and the robot's among them; None: unknown.
        self._poses = route.poses if reads_poses else None
        self._filter: PoseFilter | None = None
        if start is not None and self._poses is not None:
            self._filter = PoseFilter(self._poses[start])
        self.place = self._estimate(np.full(count, np.nan))

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each key frame [N]; what is missing to 1 is the probability to be off the route."""
        probabilities: NDArray[np.float64] = self._on_route.copy()
        return probabilities

    @property
    def window(self) -> NDArray[np.int64]:
        """Indices of the key frames whose energies :meth:`update` needs next."""
        count, config = len(self._route), self._config
        if self._stamp_ns is None or self.place.confidence < config.min_confidence:
            scored = np.linspace(0, count - 1, min(count, config.max_scored)).round()
            indices: NDArray[np.int64] = np.unique(scored.astype(np.int64))
            return indices
        center = self.place.key_frame
        first, end = max(center - config.window, 0), min(center + config.window + 1, count)
        around: NDArray[np.int64] = np.arange(first, end, dtype=np.int64)
        return around

    @property
    def landmarks(self) -> Floats:
        """Latents [N, T, D] of what :attr:`readable` lists: the key frames."""
        return self._route.latents

    @property
    def readable(self) -> NDArray[np.int64]:
        """Indices of the key frames from which :meth:`update` uses relative poses next; empty: none."""
        poses = self._poses
        if poses is None or self._filter is None:
            return np.zeros(0, np.int64)
        center, size = self.place.key_frame, self._config.window
        around: NDArray[np.int64] = np.arange(max(center - size, 0), min(center + size + 1, len(poses)))
        apart = [travel_m(self._filter.pose, poses[index]) for index in around]
        return np.sort(around[np.argsort(apart)[:_READ]])

    def goal_pose(self, index: int, pose: tuple[float, float, float]) -> RelativePose | None:
        """Return the pose of a key frame in the frame of the robot, whether it is in view or not.

        Args:
            index: The key frame.
            pose: Odometry pose of the robot.

        Returns:
            The pose; None: unknown.
        """
        if self._poses is None or self._filter is None or self._pose is None:
            return None
        here = compose(self._filter.pose, relative(np.array(self._pose), np.array(pose)))
        position_std_m, _, yaw_std_rad = np.sqrt(self._filter.variance).tolist()
        x, y, yaw = relative(here, self._poses[index]).tolist()
        return RelativePose(x, y, yaw, position_std_m, yaw_std_rad)

    def is_at(self, goal_pose: RelativePose) -> bool:
        """Return whether the robot is at a key frame with this :meth:`goal_pose`."""
        return goal_pose.ratio(self._config.arrival_m, self._config.arrival_rad) <= 1

    def update(
        self,
        window: NDArray[np.int64],
        energies: Floats,
        *,
        stamp_ns: int,
        command: NDArray[np.floating] | None = None,
        pose: tuple[float, float, float] | None = None,
        readings: NDArray[np.floating] | None = None,
    ) -> Place:
        """Add an image and return the place.

        An image with exactly the energies of the previous one, although the robot moves, repeats it, and is
        no evidence.

        Args:
            window: Key frames [n] whose energies are given, in increasing order.
            energies: Energies [n] between these key frames and the image.
            stamp_ns: Stamp of the image.
            command: Command [A] in force since the previous image; None: unknown.
            pose: Odometry pose; None: unknown.
            readings: Poses of the robot in the frame of each of :attr:`readable`, as
                :meth:`WorldModel.relative_poses` returns them [n, 5]; None: the model reads none.

        Raises:
            ValueError: The energies do not belong to the window.
        """
        if len(window) != len(energies) or not len(window):
            raise ValueError(
                f"energies must be [{len(window)}] for the window, got {list(np.shape(energies))}"
            )
        is_first = self._stamp_ns is None
        elapsed_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) / 1e9
        self._stamp_ns = stamp_ns
        # If the clock was set, the elapsed time is unknown.
        elapsed_s = min(elapsed_s, _MAX_GAP_S) if elapsed_s >= 0 else _MAX_GAP_S
        content = window.tobytes(), np.asarray(energies, np.float32).tobytes()
        # A robot that stands may see the same image again.
        is_repeated = content == self._last and (command is None or bool(np.any(command)))
        self._last = content
        moved_m = self._moved_m(pose)
        self._unseen_m += moved_m
        self._track(elapsed_s, pose, None if is_repeated else readings)
        self._pose = pose
        self._predict(elapsed_s, command, moved_m)
        every = self._all_energies(window, energies)
        if not is_repeated and np.isfinite(energies).all():
            weight = 1.0 if is_first else min(elapsed_s / _CORRELATION_S, 1.0)
            self._weigh(every, weight)
        self.place = self._estimate(every)
        if self.place.confidence >= self._config.min_confidence:
            self._unseen_m = 0.0
        self.place = replace(self.place, is_tracked=self._is_tracked())
        self._check_pose()
        return self.place

    def _moved_m(self, pose: tuple[float, float, float] | None) -> float:
        """Return the motion since the previous image by odometry; NaN: unknown."""
        if pose is None or self._pose is None:
            return math.nan
        return travel_m(np.array(self._pose), np.array(pose))

    def _is_tracked(self) -> bool:
        if self._poses is None or self._filter is None or not self._unseen_m <= _TRACKED_M:
            return False
        apart_m = np.hypot(*(self._poses[:, :2] - self._filter.pose[:2]).T)
        return bool(apart_m.min() <= _ON_ROUTE_M)

    def _track(
        self,
        elapsed_s: float,
        pose: tuple[float, float, float] | None,
        readings: NDArray[np.floating] | None,
    ) -> None:
        """Update the estimated pose."""
        if self._filter is None or self._poses is None:
            return
        if pose is None:
            self._filter = None
            return
        readable = self.readable
        if self._pose is not None:
            self._filter.move(relative(np.array(self._pose), np.array(pose)), elapsed_s)
        if readings is not None:
            self._filter.correct(self._poses[readable], readings, elapsed_s)

    def _check_pose(self) -> None:
        """Begin an estimate of the pose at a certain place, unless the present one is near it."""
        if self._poses is None or self._pose is None:
            return
        at = self._poses[self.place.key_frame]
        is_near = self._filter is not None and math.hypot(*(self._filter.pose - at)[:2]) < _ELSEWHERE_M
        if not is_near and self.place.confidence >= self._config.min_confidence:
            self._filter = PoseFilter(at)

    def _predict(
        self,
        elapsed_s: float,
        command: NDArray[np.floating] | None,
        moved_m: float,
    ) -> None:
        advance = self._advance(elapsed_s, command, moved_m)
        on_route, off_route = _moved(self._on_route, advance), self._off_route
        drift = _STANDING_DRIFT * elapsed_s + _MOVING_DRIFT * float(np.abs(advance).mean())
        on_route = _diffused(on_route, min(drift, 0.3))
        leaves = -math.expm1(-self._config.leaves_per_s * elapsed_s)
        returns = -math.expm1(-self._config.returns_per_s * elapsed_s)
        self._off_route = off_route * (1 - returns) + on_route.sum() * leaves
        self._on_route = on_route * (1 - leaves) + off_route * returns / len(on_route)

    def _advance(
        self,
        elapsed_s: float,
        command: NDArray[np.floating] | None,
        moved_m: float,
    ) -> NDArray[np.float64]:
        """Return the expected motion [N] in key frames from each key frame on."""
        traveled_m = self._route.traveled_m
        if traveled_m is not None and not math.isnan(moved_m):
            indices = np.arange(len(traveled_m), dtype=float)
            there_m = traveled_m + moved_m
            moved: NDArray[np.float64] = np.interp(there_m, traveled_m, indices) - indices
            return moved
        ratio = 0.5
        if command is not None and self._effort is not None:
            ratio = min(float(np.linalg.norm(command)) / self._effort, _MAX_SPEED_RATIO)
        return elapsed_s * ratio / self._gaps_s

    def _all_energies(self, window: NDArray[np.int64], energies: Floats) -> NDArray[np.float64]:
        """Return the energies [N]: interpolated inside the window, at least the lost energy outside."""
        indices = np.arange(len(self._route))
        every: NDArray[np.float64] = np.interp(indices, window, np.asarray(energies, float))
        outside = (indices < window[0]) | (indices > window[-1])
        every[outside] = max(self._route.lost_energy, float(np.max(energies)))
        return every

    def _weigh(self, every: NDArray[np.float64], weight: float) -> None:
        # Relative to the energy off the route, so that nothing underflows.
        exponents = np.clip((self._route.lost_energy - every) / self._scale, -50.0, 50.0)
        on_route = self._on_route * np.exp(weight * exponents)
        total = on_route.sum() + self._off_route
        self._on_route, self._off_route = on_route / total, self._off_route / total

    def _estimate(self, every: NDArray[np.float64]) -> Place:
        on_route = self._on_route
        count, mass = len(on_route), float(on_route.sum())
        best = int(np.convolve(on_route, np.ones(3), "same").argmax())
        near = slice(max(best - _NEAR, 0), best + _NEAR + 1)
        around = float(on_route[near].sum())
        index = float(on_route[near] @ np.arange(count)[near] / around) if around > 0 else float(best)
        every_state = np.append(on_route, self._off_route)
        positive = every_state[every_state > 0]
        return Place(
            key_frame=best,
            index=index,
            progress=index / (count - 1),
            confidence=min(around, 1.0),
            contrast=min(around / mass, 1.0) if mass > 0 else 0.0,
            entropy=float(-(positive * np.log(positive)).sum() / math.log(count + 1)),
            energy=float(every[near].min()),
        )


def _moved(mass: NDArray[np.float64], advance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``mass`` [N] moved by ``advance`` [N] key frames, up to the ends of the route."""
    last = len(mass) - 1
    targets = np.clip(np.arange(len(mass)) + advance, 0, last)
    lower = np.floor(targets).astype(int)
    upper = np.minimum(lower + 1, last)
    fraction = targets - lower
    moved = np.zeros_like(mass)
    np.add.at(moved, lower, mass * (1 - fraction))
    np.add.at(moved, upper, mass * fraction)
    return moved


def _diffused(mass: NDArray[np.float64], proportion: float) -> NDArray[np.float64]:
    """Return ``mass`` [N] of which ``proportion`` moves by one in each direction."""
    moved = mass * (1 - 2 * proportion)
    moved[1:] += mass[:-1] * proportion
    moved[:-1] += mass[1:] * proportion
    moved[[0, -1]] += mass[[0, -1]] * proportion
    return moved


def _to_next(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``values`` [N-1] between key frames as [N]; the last one stands for what follows."""
    return np.append(values, values[-1])


def _mean_effort(route: Route) -> float | None:
    """Return the mean norm of the taught commands while the robot moved; None: unknown."""
    norms = [float(np.linalg.norm(frame.command)) for frame in route.key_frames if frame.command is not None]
    moving = [norm for norm in norms if norm > 1e-6]
    return float(np.mean(moving)) if moving else None
