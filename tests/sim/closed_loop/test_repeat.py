"""Routes of Two Rooms, taught and repeated with the shipped model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.errors import RouteError, WorldError
from jepa_runtime.model import WorldModel
from jepa_runtime.routes import FollowerConfig, Route, RouteLocalizer, RouteOutcome, RouteRecorder, model_of
from jepa_sim.closed_loop.repeat import RepeatConfig, displace_robot, place_robot, repeat_route
from jepa_sim.worlds import TwoRooms
from tests.errors import code

SEED, PERIOD_S = 1_000_000_007, 1 / 15
HASTY = FollowerConfig(wait_s=0.5, lost_after_s=1.0, blocked_after_s=1.0, attempts=1)


@pytest.fixture(scope="module")
def model(two_rooms_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(two_rooms_bundle) as opened:
        yield opened


@pytest.fixture
def world() -> TwoRooms:
    return TwoRooms(layout="fixed", seed=SEED)


def teach(model: WorldModel, world: TwoRooms) -> tuple[Route, np.ndarray]:
    """Drive through the door, in the middle of which the wall of the fixed layout is."""
    recorder, stamp_ns = RouteRecorder(model_of(model), model.energy), 0
    side = np.sign(2.0 - world.position[0])
    for waypoint in ([2.0 - side * 0.5, 2.8], [2.0 + side * 0.5, 2.8], world.goal):
        while np.linalg.norm(offset := np.array(waypoint) - world.position) > 0.04:
            command = offset / np.linalg.norm(offset) * 0.5
            image = world.render()
            recorder.add(stamp_ns=stamp_ns, latent=model.encode(image), image=image, command=command)
            world.step(command, PERIOD_S)
            stamp_ns += round(PERIOD_S * 1e9)
    image = world.render()
    recorder.add(stamp_ns=stamp_ns, latent=model.encode(image), image=image)
    return recorder.finish("two_rooms"), world.position


@pytest.fixture(scope="module")
def taught(model: WorldModel) -> tuple[Route, np.ndarray]:
    return teach(model, TwoRooms(layout="fixed", seed=SEED))


def distance(world: TwoRooms, position: np.ndarray) -> float:
    return float(np.linalg.norm(world.position - position))


def test_repeat_displaced_start_reaches_the_true_end(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, end = taught
    displace_robot(world, 0.3, seed=1)
    trace = repeat_route(model, world, route)
    assert trace.ended.outcome is RouteOutcome.REACHED and distance(world, end) <= world.tolerance_m
    assert trace.points[-1].progress > 0.9


def test_repeat_reversed_route_returns_to_the_start(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, end = taught
    start = world.position
    place_robot(world, route, len(route) - 1)
    assert distance(world, end) < 0.1
    trace = repeat_route(model, world, route.reversed())
    assert trace.ended.outcome is RouteOutcome.REACHED and distance(world, start) <= world.tolerance_m


def test_repeat_goals_on_the_way_do_not_stop_the_robot(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, _ = taught
    positions: list[np.ndarray] = []
    trace = repeat_route(model, world, route, watch=lambda *_: positions.append(world.position))
    goals = [point.goal for point in trace.points]
    assert len(set(goals) - {None}) > 3, "the goal moved on several times"
    speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    moving = np.flatnonzero(speeds > 1e-3)
    first, last = moving[0], next(i for i, goal in enumerate(goals) if goal == len(route) - 1)
    stands = [index for index in range(first, last) if speeds[index] < 1e-3]
    assert not stands and not trace.stops


def test_repeat_kidnapped_robot_goes_on_from_where_it_is(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, end = taught
    start = world._position.copy()

    def kidnap(_image: object, time_s: float) -> None:
        if abs(time_s - 1.0) < 1e-6:
            world._position = start.copy()

    trace = repeat_route(model, world, route, watch=kidnap)
    assert trace.ended.outcome is RouteOutcome.REACHED and distance(world, end) <= world.tolerance_m


def test_repeat_robot_off_the_route_is_lost_and_does_not_move(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, _ = taught
    corners = np.array([[x, y] for x in (0.4, 3.6) for y in (0.4, 3.6)])
    energies = []
    for corner in corners:
        world._position[0] = corner
        energies.append(model.energy(route.latents, model.encode(world.render())).min())
    assert max(energies) > route.lost_energy
    world._position[0] = before = corners[int(np.argmax(energies))]
    trace = repeat_route(model, world, route, RepeatConfig(follower=HASTY))
    assert trace.ended.outcome is RouteOutcome.LOST and distance(world, before) < 1e-6


def test_repeat_blocked_robot_stops_tries_again_and_gives_up(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray]
) -> None:
    route, _ = taught
    held = world._position.copy()

    def hold(_image: object, time_s: float) -> None:
        if time_s > 0.5:
            world._position[:] = held
        else:
            held[:] = world._position

    trace = repeat_route(model, world, route, RepeatConfig(follower=HASTY), watch=hold)
    assert trace.ended.outcome in (RouteOutcome.BLOCKED, RouteOutcome.CHANGED), trace.ended
    assert len(trace.stops) == HASTY.attempts + 1


def test_repeat_frozen_camera_stops_the_robot(
    model: WorldModel, world: TwoRooms, taught: tuple[Route, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    route, end = taught
    render, images = world.render, []

    def frozen() -> np.ndarray:
        images.append(render() if len(images) < 20 else images[-1])
        return images[-1]

    monkeypatch.setattr(world, "render", frozen)
    trace = repeat_route(model, world, route, RepeatConfig(follower=HASTY))
    assert trace.ended.outcome is not RouteOutcome.REACHED and distance(world, end) > world.tolerance_m
    assert trace.points[-1].confidence < 1.0 and trace.stops


def test_repeat_with_another_precision_is_refused(
    two_rooms_bundle: Path, world: TwoRooms, taught: tuple[Route, np.ndarray], tmp_path: Path
) -> None:
    route, _ = taught
    with WorldModel.open(two_rooms_bundle, engine="onnxruntime:CPU", precision="fp32") as other:
        with pytest.raises(RouteError, check=code("route.encoder_mismatch")):
            repeat_route(other, world, route)
        again = route.encoded_with(other)
        again.check_model(model_of(other), "route")
        localizer = RouteLocalizer(again)
        window = localizer.window
        energies = other.energy(again.latents[window], other.encode(world.render()))
        assert localizer.update(window, energies, stamp_ns=0).key_frame <= 1


def test_repeat_robot_cannot_be_placed_without_commands(model: WorldModel, world: TwoRooms) -> None:
    recorder = RouteRecorder(model_of(model), model.energy)
    for index in range(4):
        image = world.render()
        recorder.add(stamp_ns=index * 10**9, latent=model.encode(image), image=image)
        world.step(np.array([0.5, 0.0]), 1.0)
    route = recorder.finish("images")
    with pytest.raises(WorldError, check=code("sim.no_commands")):
        place_robot(world, route, 1)
