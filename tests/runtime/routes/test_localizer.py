"""Where on a route the robot is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.routes.localizer import LocalizerConfig, Place, RouteLocalizer
from jepa_runtime.routes.route import Route
from jepa_runtime.util.poses import relative
from tests.runtime.routes.drives import PERIOD_NS, eight, latent_at, line, pose_at, record, score, turning


class Drive:
    """Images of a robot on a route, as a localizer gets them."""

    def __init__(self, route: Route, **options: object) -> None:
        self.route, self.localizer = route, RouteLocalizer(route, **options)
        self.stamp_ns = 0

    def see(
        self, position: NDArray[np.floating], command: tuple[float, float] | None = (0.5, 0.0), **more: object
    ) -> Place:
        self.stamp_ns += PERIOD_NS
        window = self.localizer.window
        energies = score(self.route.latents[window], latent_at(position))
        given = None if command is None else np.array(command)
        return self.localizer.update(window, energies, stamp_ns=self.stamp_ns, command=given, **more)

    def true_index(self, position: NDArray[np.floating]) -> int:
        return int(score(self.route.latents, latent_at(position)).argmin())


def test_localizer_on_the_taught_drive_follows_it() -> None:
    drive = Drive(record(line()))
    for position in line():
        place = drive.see(position)
        assert abs(place.key_frame - drive.true_index(position)) <= 1
    assert place.confidence > 0.9 and place.progress > 0.97 and place.entropy < 0.4


@pytest.mark.parametrize("start_m", [0.0, 1.4, 2.9])
def test_localizer_start_anywhere_on_the_route_is_found(start_m: float) -> None:
    drive = Drive(record(line()))
    position = np.array([start_m, 0.05])
    places = [drive.see(position, (0.0, 0.0)) for _ in range(5)]
    assert places[-1].confidence > 0.5
    assert abs(places[-1].key_frame - drive.true_index(position)) <= 1


def test_localizer_displaced_drive_is_followed() -> None:
    drive = Drive(record(line()))
    for position in line() + np.array([0.0, 0.12]):
        place = drive.see(position)
    assert place.confidence > 0.5 and place.progress > 0.95


def test_localizer_kidnapped_robot_is_found_again() -> None:
    drive = Drive(record(line()))
    for position in line()[:10]:
        drive.see(position)
    elsewhere = np.array([2.5, 0.0])
    places = [drive.see(elsewhere, (0.0, 0.0)) for _ in range(30)]
    assert places[0].confidence < 0.5 or places[0].key_frame != drive.true_index(elsewhere)
    assert places[-1].confidence > 0.8 and abs(places[-1].key_frame - drive.true_index(elsewhere)) <= 1


def test_localizer_robot_taken_off_the_route_is_uncertain_and_not_elsewhere() -> None:
    drive = Drive(record(line()))
    for position in line()[:20]:
        place = drive.see(position)
    assert place.confidence > 0.8
    for _ in range(20):
        place = drive.see(np.array([1.0, 3.0]), (0.0, 0.0))
    assert place.confidence < 0.2


def test_localizer_standing_robot_stays_at_its_place() -> None:
    drive = Drive(record(line()))
    positions = line()[:30]
    for position in positions:
        drive.see(position)
    before = drive.localizer.place.key_frame
    for _ in range(200):
        place = drive.see(positions[-1], (0.0, 0.0))
    assert abs(place.key_frame - before) <= 1 and place.confidence > 0.8


def test_localizer_repeated_image_is_no_evidence() -> None:
    drive = Drive(record(line()))
    drive.see(np.array([1.0, 0.0]), (0.0, 0.0))
    window = drive.localizer.window
    energies = score(drive.route.latents[window], latent_at(np.array([1.02, 0.0])))
    entropies = []
    for repeat in range(20):
        place = drive.localizer.update(
            window, energies, stamp_ns=drive.stamp_ns + (repeat + 1) * PERIOD_NS, command=np.array([0.5, 0.0])
        )
        entropies.append(place.entropy)
    assert all(np.diff(entropies[1:]) > 0), "the place becomes less certain while the camera repeats an image"


def test_localizer_crossing_is_passed_in_the_taught_direction() -> None:
    positions = eight()
    drive = Drive(record(positions))
    indices = []
    for index, position in enumerate(positions):
        following = positions[min(index + 1, len(positions) - 1)]
        command = tuple((following - position) / (PERIOD_NS / 1e9))
        indices.append(drive.see(position, command).index)
    assert (np.diff(indices[3:]) > -1.5).all(), "it never jumps to the other pass of the crossing"
    assert drive.localizer.place.progress > 0.97


def test_localizer_reversed_route_is_followed_back() -> None:
    drive = Drive(record(line()).reversed())
    for position in line()[::-1]:
        place = drive.see(position, (-0.5, 0.0))
    assert place.confidence > 0.9 and place.progress > 0.97


def test_localizer_known_start_resolves_equal_places() -> None:
    """The route goes out and back the same way: the start decides which pass it is."""
    there = line()
    route = record(np.concatenate([there, there[::-1]]))
    middle = np.array([1.5, 0.0])
    first, second = (Drive(route, start=route.index_at(time_s)) for time_s in (3.0, 9.0))
    assert first.see(middle).progress < 0.5 < second.see(middle).progress


def test_localizer_frame_rate_does_not_change_the_certainty() -> None:
    route = record(line())
    slow, fast = Drive(route), Drive(route)
    for _ in range(10):
        slow.see(np.array([1.0, 0.3]), (0.0, 0.0))
    fast_period = PERIOD_NS // 5
    for index in range(46):
        window = fast.localizer.window
        energies = score(route.latents[window], latent_at(np.array([1.0, 0.3 + 1e-6 * index])))
        fast.localizer.update(window, energies, stamp_ns=index * fast_period, command=np.zeros(2))
    assert fast.localizer.place.confidence == pytest.approx(slow.localizer.place.confidence, abs=0.1)


def test_localizer_clock_set_back_is_survived() -> None:
    drive = Drive(record(line()))
    for position in line()[:20]:
        drive.see(position)
    drive.stamp_ns -= 3600 * 10**9
    for position in line()[20:30]:
        place = drive.see(position)
    assert place.confidence > 0.8 and abs(place.key_frame - drive.true_index(position)) <= 1


def test_localizer_odometry_moves_the_place_between_images() -> None:
    route = record(line())
    frames = (
        replace(frame, pose=(float(frame.latent[0, 0]), 0.0, 0.0), command=None) for frame in route.key_frames
    )
    drive = Drive(replace(route, key_frames=tuple(frames)), start=0)
    drive.see(np.array([0.0, 0.0]), None, pose=(0.0, 0.0, 0.0))
    window = drive.localizer.window
    # No evidence: all energies are equal.
    flat = np.full(len(window), route.near_energy, np.float32)
    drive.localizer.update(window, flat, stamp_ns=drive.stamp_ns + PERIOD_NS, pose=(0.3, 0.0, 0.0))
    assert drive.localizer.place.key_frame == pytest.approx(3, abs=1)


def test_localizer_odometry_passes_key_frames_of_a_turn_only_when_the_robot_turns() -> None:
    drive = Drive(turning(), start=8)
    window, flat = drive.localizer.window, np.full(len(drive.localizer.window), 0.3, np.float32)
    for step, pose in enumerate([(0.8, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 1.6)]):
        noise = (0.001 * step) * np.arange(len(window), dtype=np.float32)
        drive.localizer.update(
            window, flat + noise, stamp_ns=step * PERIOD_NS, command=np.array([0.5, 0.0]), pose=pose
        )
        assert drive.localizer.place.key_frame == pytest.approx((8, 10, 14)[step], abs=1)


def test_localizer_long_route_scores_a_bounded_number_of_key_frames() -> None:
    route = record(line(40.0, speed=2.0))
    localizer = RouteLocalizer(route, LocalizerConfig(window=5, max_scored=64))
    assert len(localizer.window) <= 64 < len(route)
    drive = Drive(route, config=LocalizerConfig(window=5, max_scored=64))
    for _ in range(5):
        place = drive.see(np.array([25.0, 0.0]), (0.0, 0.0))
    assert abs(place.key_frame - drive.true_index(np.array([25.0, 0.0]))) <= 3
    assert len(drive.localizer.window) <= 11


def test_localizer_energies_of_another_window_are_rejected() -> None:
    localizer = RouteLocalizer(record(line()))
    with pytest.raises(ValueError, match="energies must be"):
        localizer.update(localizer.window, np.zeros(1, np.float32), stamp_ns=0)


class ReadDrive(Drive):
    """Images from which the model reads relative poses, of a robot with odometry from its start."""

    def __init__(self, route: Route, **options: object) -> None:
        super().__init__(route, reads_poses=True, **options)
        self.origin: NDArray[np.floating] | None = None

    def read(self, position: NDArray[np.floating]) -> Place:
        if self.origin is None:
            self.origin = np.array(position)
        true = np.array(pose_at(position))
        readings = [
            (*relative(np.array(self.route.key_frames[index].pose), true), 0.05, 0.03)
            for index in self.localizer.readable
        ]
        odometry = pose_at(position - self.origin)
        given = np.array(readings).reshape(-1, 5)
        return self.see(position, pose=odometry, readings=given if len(given) else None)

    def goal_error_m(self, index: int, position: NDArray[np.floating]) -> float:
        assert self.origin is not None
        found = self.localizer.goal_pose(index, pose_at(position - self.origin))
        assert found is not None
        true = relative(np.array(pose_at(position)), np.array(self.route.key_frames[index].pose))
        return float(np.hypot(found.x_m - true[0], found.y_m - true[1]))


def test_localizer_pose_of_a_key_frame_follows_from_readings_and_odometry() -> None:
    drive = ReadDrive(record(line(), odometry=True), start=0)
    for position in line()[:30] + np.array([0.0, 0.12]):
        drive.read(position)
    last = len(drive.route) - 1
    assert drive.goal_error_m(last, position) < 0.03
    ahead = position + np.array([0.2, 0.0])
    assert drive.goal_error_m(last, ahead) < 0.03, "odometry moves it between images"
    assert len(drive.localizer.readable) == 3
    assert abs(drive.localizer.readable - drive.true_index(position)).max() <= 2


def test_localizer_robot_is_at_a_key_frame_by_its_pose_and_heading() -> None:
    drive = ReadDrive(record(line(), odometry=True), start=0)
    for position in line():
        drive.read(position)
    assert drive.origin is not None
    end = drive.localizer.goal_pose(len(drive.route) - 1, pose_at(position - drive.origin))
    assert end is not None and drive.localizer.is_at(end)
    for away in ({"x_m": 0.2}, {"y_m": -0.2}, {"yaw_rad": 0.2}):
        assert not drive.localizer.is_at(replace(end, **away))


def test_localizer_kidnapped_robot_begins_another_estimate_of_its_pose() -> None:
    drive = ReadDrive(record(line(6.0), odometry=True), start=0)
    for position in line(6.0)[:20]:
        drive.read(position)
    moved = np.array([5.0, 0.0])
    drive.origin = moved - (position - drive.origin)
    for step in range(40):
        drive.read(moved + np.array([0.0, 0.001 * step]))
    assert drive.goal_error_m(len(drive.route) - 1, moved) < 0.05


@pytest.mark.parametrize(
    ("motion_m", "is_tracked"), [((0.2, 0.0), True), ((0.0, 0.7), False), ((1.3, 0.0), False)]
)
def test_localizer_robot_that_hardly_left_a_certain_place_is_tracked_by_odometry(
    motion_m: tuple[float, float], is_tracked: bool
) -> None:
    drive = ReadDrive(record(line(), odometry=True), start=0)
    for position in line()[:20]:
        assert drive.read(position).is_tracked
    assert drive.origin is not None
    for part in np.linspace(0.0, 1.0, 30):
        at = position + part * np.array(motion_m)
        place = drive.see(np.array([1.0, 5.0]), pose=pose_at(at - drive.origin))
    assert place.confidence < 0.5 and place.is_tracked is is_tracked
    assert not drive.see(np.array([1.0, 5.0])).is_tracked, "without odometry it is unknown"


def test_localizer_readings_of_a_repeated_image_are_no_evidence() -> None:
    drive = ReadDrive(record(line(), odometry=True), start=0)
    for position in line()[:10]:
        drive.read(position)
    window, moved = drive.localizer.window, position + np.array([0.3, 0.0])
    energies = score(drive.route.latents[window], latent_at(position))
    frozen = np.stack(
        [
            (*relative(np.array(drive.route.key_frames[index].pose), np.array(pose_at(position))), 0.05, 0.03)
            for index in drive.localizer.readable
        ]
    )
    for step in range(1, 31):
        at = position + (moved - position) * step / 30
        drive.localizer.update(
            window,
            energies,
            stamp_ns=drive.stamp_ns + step * PERIOD_NS,
            command=np.array([0.5, 0.0]),
            pose=pose_at(at),
            readings=frozen[: len(drive.localizer.readable)],
        )
    assert drive.goal_error_m(len(drive.route) - 1, moved) < 0.1


@pytest.mark.parametrize(("odometry", "reads_poses"), [(False, True), (True, False)])
def test_localizer_without_odometry_or_readings_knows_no_pose(odometry: bool, reads_poses: bool) -> None:
    drive = Drive(record(line(), odometry=odometry), start=0, reads_poses=reads_poses)
    for position in line()[:10]:
        drive.see(position, pose=pose_at(position))
    assert drive.localizer.goal_pose(3, (0.0, 0.0, 0.0)) is None and not len(drive.localizer.readable)


def test_localizer_odometry_that_fails_ends_the_estimate_of_the_pose() -> None:
    drive = ReadDrive(record(line(), odometry=True), start=0)
    for position in line()[:10]:
        drive.read(position)
    drive.see(position)
    assert drive.localizer.goal_pose(3, (0.0, 0.0, 0.0)) is None
