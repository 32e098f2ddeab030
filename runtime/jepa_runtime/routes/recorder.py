"""Recording of a route: which images of a drive become key frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import RouteError
from jepa_runtime.imaging.conversion import Image, resize_into, to_png
from jepa_runtime.routes.manifest import MAX_KEY_FRAMES, RouteModel
from jepa_runtime.routes.route import Floats, KeyFrame, Route, Score, measure_energies
from jepa_runtime.util.poses import travel_m

# Images may overtake each other by this much. A larger step back is one of the clock.
_MAX_BACK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RecorderConfig:
    """When an image becomes a key frame.

    Attributes:
        spacing: Energy from the last key frame, in multiples of the model's goal threshold.
        max_gap_s: Time after the last key frame, if the robot has moved at all: the energy exceeds the goal
            threshold.
        spacing_m: Travel by odometry since the last key frame, see
            :func:`~jepa_runtime.util.poses.travel_m`, if there is odometry.
        max_hole_m: Longest travel by odometry between two consecutive images.
        max_hole_s: Longest time between two consecutive images that look like different key frames, without
            odometry.

    Raises:
        ValueError: A value is out of range.
    """

    spacing: float = 2.0
    max_gap_s: float = 2.0
    spacing_m: float = 0.25
    max_hole_m: float = 1.0
    max_hole_s: float = 2.0

    def __post_init__(self) -> None:
        lengths = self.max_gap_s, self.spacing_m, self.max_hole_m, self.max_hole_s
        if not self.spacing >= 1 or not all(length > 0 for length in lengths):
            raise ValueError(
                "spacing must be at least 1, and max_gap_s, spacing_m, max_hole_m and max_hole_s positive, "
                f"got {self.spacing:g}, {', '.join(f'{length:g}' for length in lengths)}"
            )


@dataclass(frozen=True, eq=False)
class _View:
    stamp_ns: int
    latent: Floats
    image: Image
    pose: tuple[float, float, float] | None


class RouteRecorder:
    """Records a route from the images of one continuous drive.

    Args:
        model: The model that encodes the images.
        score: Energies of latents to one latent.
        config: When an image becomes a key frame.

    Attributes:
        skipped: Images that were ignored, since their stamps do not increase.
    """

    def __init__(self, model: RouteModel, score: Score, config: RecorderConfig | None = None) -> None:
        self._model, self._score = model, score
        self._config = RecorderConfig() if config is None else config
        self._key_frames: list[KeyFrame] = []
        # Stamps of the first, the last and the newest key frame.
        self._start_ns = self._key_ns = self._newest_ns = 0
        # Time, latent, image and pose of the newest image.
        self._newest: _View | None = None
        self._command: NDArray[np.float64] | None = None
        # Integral of the commands since the last key frame [s], and the time for which they are known.
        self._integral: NDArray[np.float64] | None = None
        self._known_s = 0.0
        # Part of the odometry at the first image with a pose; time of the first image without one that
        # continues it.
        self._part: int | None = None
        self._unlocated_s: float | None = None
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._key_frames)

    @property
    def duration_s(self) -> float:
        """Time from the first to the newest image."""
        return (self._newest_ns - self._start_ns) / 1e9

    @property
    def odometry_ended_s(self) -> float | None:
        """Time of the first image whose pose is unknown, or does not continue the earlier ones.

        None: there is no such image, or no image with a pose.
        """
        return None if self._part is None else self._unlocated_s

    def add(
        self,
        *,
        stamp_ns: int,
        latent: Floats,
        image: Image,
        command: NDArray[np.floating] | None = None,
        pose: tuple[float, float, float] | None = None,
        part: int = 0,
    ) -> bool:
        """Add an image; return whether it became a key frame.

        Args:
            stamp_ns: Stamp of the image. Images whose stamps do not increase are ignored.
            latent: Its latent [T, D].
            image: The image, uint8 [h, w, 3] RGB of any size.
            command: Command [A] in force from this stamp on; None: unknown.
            pose: Odometry pose; None: unknown.
            part: Number of the continuous part of the odometry; see
                :class:`~jepa_runtime.util.OdometryPose`. Poses of later parts are not recorded.

        Raises:
            RouteError: The energies are not finite, the route is too long, the clock of the stamps was set
                back, or the robot moved while no images arrived.
        """
        previous, elapsed_s = self._newest, (stamp_ns - self._newest_ns) / 1e9
        if previous is None:
            self._start_ns = stamp_ns
        elif elapsed_s <= 0:
            self._check_order(-elapsed_s)
            self.skipped += 1
            return False
        else:
            self._integrate(elapsed_s)
        self._newest_ns = stamp_ns
        pose = self._continued(pose, part)
        if previous is not None:
            self._check_hole(previous, latent, pose, elapsed_s)
        self._command = None if command is None else np.asarray(command, float)
        self._newest = _View(stamp_ns, latent, self._fitted(image), pose)
        if self._key_frames and not self._is_next(latent, stamp_ns, pose):
            return False
        self._append(self._newest)
        return True

    def finish(self, source: str) -> Route:
        """Return the route, which ends with the newest image.

        Args:
            source: Where the images came from.

        Raises:
            RouteError: The robot did not move, or the model does not tell the places apart.
        """
        newest, frames = self._newest, self._key_frames
        if newest is not None and newest.stamp_ns != self._key_ns:
            threshold = self._model.goal_threshold
            if len(frames) > 1 and self._energy(frames[-1].latent, newest.latent) <= threshold:
                self._remove_last()
            self._append(newest)
        if len(frames) < 3 and (len(frames) < 2 or self._ends_at_start()):
            raise RouteError(
                f"{source}: {len(frames)} key frames in {self.duration_s:.1f} s: the robot did not "
                "move: drive it "
                "along the route while it is taught",
                code="route.too_short",
            )
        near, far = measure_energies(np.stack([frame.latent for frame in frames]), self._score)
        return Route(
            model=self._model, source=source, key_frames=tuple(frames), near_energy=near, far_energy=far
        )

    def _is_next(self, latent: Floats, stamp_ns: int, pose: tuple[float, float, float] | None) -> bool:
        last = self._key_frames[-1].pose
        has_odometry = pose is not None and last is not None
        if has_odometry and travel_m(np.array(last), np.array(pose)) >= self._config.spacing_m:
            return True
        energy, threshold = self._energy(self._key_frames[-1].latent, latent), self._model.goal_threshold
        gap_s = (stamp_ns - self._key_ns) / 1e9
        return energy >= self._config.spacing * threshold or (
            gap_s >= self._config.max_gap_s and energy > threshold
        )

    def _check_order(self, back_s: float) -> None:
        if back_s > _MAX_BACK_S:
            raise RouteError(
                f"the stamp of an image is {back_s:.1f} s before that of the previous one: the clock was set "
                "back, or two cameras publish: correct that, and teach the route again",
                code="route.time_backward",
            )

    def _check_hole(
        self, previous: _View, latent: Floats, pose: tuple[float, float, float] | None, elapsed_s: float
    ) -> None:
        """Check that the robot did not move on without images: nothing would show the way across a hole."""
        config = self._config
        if pose is not None and previous.pose is not None:
            moved_m = travel_m(np.array(previous.pose), np.array(pose))
            is_hole, moved = moved_m > config.max_hole_m, f"{moved_m:.1f} m"
        else:
            is_hole = elapsed_s > config.max_hole_s and (
                self._energy(previous.latent, latent) > config.spacing * self._model.goal_threshold
            )
            moved = "on to another place"
        if is_hole:
            raise RouteError(
                f"no image arrived for {elapsed_s:.1f} s, {self.duration_s:.1f} s after the start, while the "
                f"robot moved {moved}: check the camera and its connection, and teach the route again",
                code="route.hole",
            )

    def _continued(
        self, pose: tuple[float, float, float] | None, part: int
    ) -> tuple[float, float, float] | None:
        """Return the pose, if it continues the earlier ones."""
        if pose is not None and self._part is None:
            self._part = part
        if pose is not None and part == self._part:
            return pose
        if self._unlocated_s is None:
            self._unlocated_s = self.duration_s
        return None

    def _energy(self, start: Floats, latent: Floats) -> float:
        """Return the energy of ``start`` to ``latent``."""
        energy = float(self._score(start[None], latent)[0])
        if not np.isfinite(energy):
            raise RouteError(
                "the energy between two images of the route is not finite: use another precision or engine "
                "(jepa-runtime verify)",
                code="route.energy_not_finite",
            )
        return energy

    def _ends_at_start(self) -> bool:
        first, last = self._key_frames[0], self._key_frames[-1]
        return float(self._score(first.latent[None], last.latent)[0]) <= self._model.goal_threshold

    def _append(self, view: _View) -> None:
        if len(self._key_frames) >= MAX_KEY_FRAMES:
            raise RouteError(
                f"the route has more than {MAX_KEY_FRAMES} key frames: divide it", code="route.too_long"
            )
        if self._key_frames and self._known_s and self._integral is not None:
            command = tuple(float(value) for value in self._integral / self._known_s)
            self._key_frames[-1] = replace(self._key_frames[-1], command=command)
        self._key_frames.append(
            KeyFrame(
                time_s=(view.stamp_ns - self._start_ns) / 1e9,
                latent=view.latent,
                image=to_png(view.image),
                pose=view.pose,
            )
        )
        self._key_ns = view.stamp_ns
        self._integral, self._known_s = None, 0.0

    def _remove_last(self) -> None:
        """Remove the last key frame, and count the commands since the one before it again."""
        removed, last = self._key_frames.pop(), self._key_frames[-1]
        if last.command is not None:
            known_s = removed.time_s - last.time_s
            moved = np.array(last.command) * known_s
            self._integral = moved if self._integral is None else self._integral + moved
            self._known_s += known_s

    def _integrate(self, elapsed_s: float) -> None:
        if self._command is None:
            return
        moved = self._command * elapsed_s
        self._integral = moved if self._integral is None else self._integral + moved
        self._known_s += elapsed_s

    def _fitted(self, image: Image) -> Image:
        fitted = np.empty((self._model.frame_height, self._model.frame_width, 3), np.uint8)
        resize_into(image, fitted)
        return fitted
