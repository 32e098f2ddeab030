"""Graphs of remembered places: loop closures, relaxation, relocalization and routes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.errors import RouteError
from jepa_runtime.routes.appearance import Appearance
from jepa_runtime.routes.loop_closures import ReadingConfig, confirmed_reading, inverse_reading
from jepa_runtime.routes.place_graph import MAX_KEY_FRAMES, PlaceGraph
from jepa_runtime.routes.pose_graph import Measurement, relax
from jepa_runtime.routes.relocalization import Location, Relocalizer
from jepa_runtime.routes.route import Floats, KeyFrame
from jepa_runtime.util.poses import Pose, relative
from tests.errors import code
from tests.runtime.routes.pose_readers import (
    PoseReader,
    drifted,
    latent_of,
    square_tour,
    tour_of,
    without_odometry,
)

CONFIG = ReadingConfig()


def errors_m(found: Pose, true: Pose) -> Pose:
    """Return the distances between poses that begin at the same one."""
    distances: Pose = np.hypot(*(found - true)[:, :2].T)
    return distances


def frame(pose: Pose) -> KeyFrame:
    return KeyFrame(time_s=0.0, latent=latent_of(pose), image=b"")


def measured(first: int, second: int, poses: Pose, std: float = 0.02) -> Measurement:
    return Measurement(first, second, relative(poses[first], poses[second]), std, std)


# Relaxation.


def test_relax_closure_corrects_the_drift_of_odometry() -> None:
    true = square_tour()
    odometry = drifted(true)
    driven = [measured(index, index + 1, odometry) for index in range(len(true) - 1)]
    closure = measured(0, len(true) - 1, true)
    assert errors_m(relax(odometry, driven), true).max() == pytest.approx(
        errors_m(odometry, true).max(), abs=1e-3
    )
    assert errors_m(relax(odometry, [*driven, closure]), true).max() < errors_m(odometry, true).max() / 2


def test_relax_wrong_measurement_counts_less() -> None:
    true = square_tour()
    measurements = [measured(index, index + 1, true) for index in range(len(true) - 1)]
    measurements += [measured(0, len(true) - 1 - step, true) for step in range(3)]
    wrong = Measurement(5, 20, np.array([3.0, 3.0, 2.0]), 0.02, 0.02)
    assert errors_m(relax(true, [*measurements, wrong]), true).max() < 0.1


# Readings.


def test_inverse_reading_is_the_pose_from_the_other_image() -> None:
    one, other = np.array([0.4, -0.2, 0.5]), np.array([1.1, 0.7, 1.2])
    found = inverse_reading(np.array([*relative(one, other), 0.05, 0.1]))
    assert found[:3] == pytest.approx(relative(other, one)) and found[3] > 0.05 and found[4] == 0.1


def test_confirmed_reading_is_the_mean_of_both_directions_or_none() -> None:
    reading = np.array([1.0, 0.0, 0.0, 0.1, 0.05])
    found = confirmed_reading(reading, np.array([-1.1, 0.0, 0.0, 0.1, 0.05]), CONFIG)
    assert found is not None and 1.0 < found[0] < 1.1
    assert confirmed_reading(reading, np.array([-1.1, 0.8, 0.0, 0.1, 0.05]), CONFIG) is None
    assert confirmed_reading(reading, np.array([-1.0, 0.0, 1.0, 0.1, 0.05]), CONFIG) is None


@pytest.mark.parametrize("name", ["max_distance_m", "agreement"])
def test_reading_config_value_out_of_range_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ReadingConfig(**{name: 0.0})


# Building a graph.


def test_place_graph_loop_closures_correct_the_odometry_of_a_tour() -> None:
    true = square_tour()
    odometry = drifted(true)
    graph = PlaceGraph.build(tour_of(true, odometry), PoseReader(0.04))
    assert errors_m(odometry, true).max() > 0.5 > 0.25 > errors_m(graph.poses, true).max()
    assert all(math.dist(true[each.first, :2], true[each.second, :2]) < 1.5 for each in graph.closures)
    assert any(each.first < 13 < len(true) - 5 < each.second for each in graph.closures)


def test_place_graph_places_that_look_alike_are_not_joined() -> None:
    """The images at two positions of the tour are the same; only those next to them tell them apart."""
    true = square_tour()
    places = true[20], true[41]
    graph = PlaceGraph.build(tour_of(true), PoseReader(aliased=places))
    assert errors_m(graph.poses, true).max() < 0.1


def test_place_graph_of_a_route_without_odometry_is_refused() -> None:
    with pytest.raises(RouteError, check=code("route.no_odometry")):
        PlaceGraph.build(without_odometry(tour_of(square_tour())), PoseReader())


def test_place_graph_of_too_long_a_tour_is_refused() -> None:
    true = np.zeros((MAX_KEY_FRAMES + 1, 3))
    with pytest.raises(RouteError, check=code("route.too_long")):
        PlaceGraph.build(tour_of(true), PoseReader())


# Relocalization.


def test_locate_image_next_to_the_tour_is_found() -> None:
    true, reader = square_tour(), PoseReader(0.05)
    graph = PlaceGraph.build(tour_of(true), reader)
    place = np.array([3.2, 0.7, 1.0])
    found = graph.locate(latent_of(place), reader)
    assert np.abs(relative(place, found.pose)).max() < 0.1 and found.confidence > 0.9
    assert 0 < found.position_std_m < 0.2
    assert all(math.dist(true[index, :2], place[:2]) < 2.6 for index in found.key_frames)


def test_locate_image_of_an_unknown_place_is_an_error() -> None:
    reader = PoseReader()
    graph = PlaceGraph.build(tour_of(square_tour()), reader)
    with pytest.raises(RouteError, check=code("route.place_unknown")):
        graph.locate(latent_of(np.array([20.0, 0.0, 0.0])), reader)


def test_relocalizer_place_that_looks_like_another_one_is_uncertain_until_the_robot_looks_around() -> None:
    places = np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [9.0, 0.0, 0.0], [9.3, 0.0, 0.0], [9.0, 0.0, 1.6]])
    seen = places.copy()
    seen[2:4, 0] -= 9.0
    latents = np.stack([latent_of(each) for each in seen])
    relocalizer = Relocalizer(latents, places, PoseReader())
    assert relocalizer.origin is None
    relocalizer.add(latent_of(np.array([0.1, 0.0, 0.0])))
    first = relocalizer.origin
    assert first is not None and first.confidence < 0.6
    for turn in (1.3, 1.5, 1.7):
        relocalizer.add(latent_of(np.array([9.1, 0.0, turn])), np.array([0.0, 0.0, turn]))
    then = relocalizer.origin
    assert then is not None and then.pose == pytest.approx([9.1, 0.0, 0.0], abs=0.1)


# Routes.


def at(pose: Pose, *key_frames: int) -> Location:
    return Location(pose=pose, position_std_m=0.1, yaw_std_rad=0.05, confidence=1.0, key_frames=key_frames)


def test_route_faces_its_direction_also_where_the_tour_went_the_other_way() -> None:
    true = square_tour()
    graph = PlaceGraph(tour=tour_of(true), poses=true, closures=())
    start, goal = np.array([2.0, 0.2, 1.0]), np.array([0.5, -0.2, 3.0])
    route = graph.route(frame(start), at(start, 20, 21), frame(goal), at(goal, 15, 16))
    poses = route.poses
    assert poses is not None and poses[0] == pytest.approx(start) and poses[-1] == pytest.approx(goal)
    assert (np.diff(poses[:, 0]) <= 1e-9).all()
    assert np.abs(np.abs(poses[2:-2, 2]) - math.pi).max() < 0.1, "turned by half a turn"
    assert (np.diff(route.times_s) > 0).all()


def test_route_takes_a_loop_closure_instead_of_the_long_way() -> None:
    true = square_tour()
    last = len(true) - 1
    start, goal = true[14], true[last - 2]
    around = PlaceGraph(tour=tour_of(true), poses=true, closures=())
    joined = PlaceGraph(tour=tour_of(true), poses=true, closures=(measured(0, last, true),))
    ends = frame(start), at(start, 14), frame(goal), at(goal, last - 2)
    assert len(joined.route(*ends)) < len(around.route(*ends)) / 3


def test_route_avoids_an_obstacle_and_bends_around_it_if_there_is_no_other_way() -> None:
    true = square_tour()
    graph = PlaceGraph(tour=tour_of(true), poses=true, closures=())
    start, goal = np.array([1.75, 1.5, 0.0]), true[30]
    ends = frame(start), at(start, 16, 20), frame(goal), at(goal, 30)
    direct = graph.route(*ends).poses
    assert direct is not None and direct[1, :2] == pytest.approx(true[20, :2])
    obstacle = (start[:2] + true[20, :2]) / 2
    around = graph.route(*ends, obstacles=[obstacle]).poses
    assert around is not None and around[1, :2] == pytest.approx(true[16, :2])
    only = frame(start), at(start, 20), *ends[2:]
    left, right = (graph.route(*only, obstacles=[obstacle] * count).poses for count in (1, 2))
    assert left is not None and right is not None
    assert all(math.dist(poses[1, :2], obstacle) > 0.5 for poses in (left, right))
    assert math.dist(left[1, :2], right[1, :2]) > 1.0


def test_route_from_a_place_that_no_key_frame_sees_is_an_error() -> None:
    true = square_tour()
    graph = PlaceGraph(tour=tour_of(true), poses=true, closures=())
    with pytest.raises(RouteError, check=code("route.not_connected")):
        graph.route(frame(true[0]), at(true[0]), frame(true[9]), at(true[9], 9))


def test_appearance_lists_the_key_frames_that_look_most_alike() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(20, 6, 4)).astype(np.float32)
    latents[:, :, 3] *= 1000.0
    found = Appearance(latents).most_alike(latents[7] + rng.normal(0, 0.01, (6, 4)).astype(np.float32), 3)
    assert len(found) == 3 and 7 in found and (np.diff(found) > 0).all()


def test_relocalizer_reads_poses_of_few_key_frames() -> None:
    true = square_tour(side_m=24.0)
    counted = CountingReader()
    graph = PlaceGraph(tour=tour_of(true), poses=true, closures=())
    relocalizer = graph.relocalizer(counted)
    relocalizer.add(latent_of(true[60]))
    found = relocalizer.origin
    assert found is not None and found.pose == pytest.approx(true[60], abs=1e-3)
    assert counted.read < len(true) / 2


class CountingReader(PoseReader):
    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        self.read += latents.reshape(-1, 3).shape[0]
        return super().relative_poses(latents, goal)


def test_place_graph_of_a_model_that_is_certain_of_everything_trusts_few_readings() -> None:
    true = square_tour()
    graph = PlaceGraph.build(tour_of(true), Overconfident())
    assert graph.reading.max_position_std_m <= 0.35 < CONFIG.max_position_std_m
    assert errors_m(graph.poses, true).max() < 0.1


class Overconfident(PoseReader):
    """States a small deviation also where it reads nothing."""

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        readings = super().relative_poses(latents, goal)
        readings[..., 3:] = np.minimum(readings[..., 3:], (0.35, 0.3))
        return readings
