"""The simulated robot: the controller of the planner node in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.bundle import seal
from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.presets import PRESETS, preset
from jepa_runtime.control.receding_horizon import State
from jepa_runtime.errors import WorldError
from jepa_runtime.model import RelativePose
from jepa_sim.closed_loop.episodes import Driver, adapted, model_driver, run_episode
from jepa_sim.closed_loop.robot import SimulatedRobot
from tests.bundles import HORIZON, make_bundle, manifest_fields
from tests.errors import code
from tests.sim.closed_loop.planes import Plane

STEP_S = 0.2


@pytest.fixture(scope="module")
def model(toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle, num_samples=16) as opened:
        yield opened


def test_robot_runs_one_search_iteration_per_image(model: WorldModel) -> None:
    world, robot = Plane(), SimulatedRobot(model, period_s=STEP_S / 6)
    robot.set_goal(world.render_goal())
    for _ in range(5):
        command = robot.step(world.render())
        world.step(command, STEP_S / 6)
    assert command.shape == (2,) and robot.state in (State.SEEKING, State.REACHED)
    assert robot.planner.iterations == 4, "the first image only asks for futures"


def test_robot_with_extra_iterations_has_a_full_plan_for_each_image(model: WorldModel) -> None:
    world = Plane()
    config = ControllerConfig(images_per_step=1, extra_iterations=3, frozen_after_s=0.0)
    robot = SimulatedRobot(model, config, period_s=STEP_S)
    robot.set_goal(world.render_goal())
    assert robot.step(world.render()).any(), "the first image already has a plan"
    assert robot.planner.iterations == 3
    robot.step(world.render())
    assert robot.planner.iterations == 7, "the second image also answers the last candidates of the first"


def test_robot_without_a_goal_raises(model: WorldModel) -> None:
    robot = SimulatedRobot(model, period_s=STEP_S)
    with pytest.raises(WorldError, check=code("sim.no_goal")):
        robot.step(Plane().render())


def test_robot_images_from_several_publishers_hold_it(model: WorldModel) -> None:
    world, robot = Plane(), SimulatedRobot(model, period_s=STEP_S / 6)
    robot.set_goal(world.render_goal())
    robot.step(world.render())
    robot.advance()
    command = robot.decide(world.render(), image_publishers=2)
    robot.finish_image()
    assert robot.state is State.HELD and not command.any() and robot.stops["cameras"] == 1


def test_robot_records_each_image_with_its_command(model: WorldModel) -> None:
    world, recorded = Plane(), []
    robot = SimulatedRobot(
        model, period_s=STEP_S / 6, record=lambda frame, command: recorded.append((frame.stamp_ns, command))
    )
    robot.set_goal(world.render_goal())
    commands = [robot.step(world.render()) for _ in range(3)]
    stamps, seen = zip(*recorded, strict=True)
    assert len(set(np.diff(stamps))) == 1
    np.testing.assert_allclose(seen, commands, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "steering"])
def test_model_driver_drives_with_each_preset(model: WorldModel, name: str) -> None:
    world = Plane(max_steps=3)
    driver = model_driver(model, preset(name), world.task)
    episode = run_episode(world, driver, seed=1, step_s=STEP_S)
    assert len(episode.plan_ms) == round(3 * driver.images_per_step) or episode.outcome != "timeout"
    assert episode.steps <= 3


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldModel]:
    """Return a model that reads poses, of a robot with two driven wheels."""
    folder = tmp_path_factory.mktemp("bundles") / "steered"
    make_bundle(folder, relative_pose=True)
    fields = manifest_fields(relative_pose=True)
    fields["io"]["action"] |= {"names": ["linear.x", "angular.z"], "units": ["m/s", "rad/s"]}
    with WorldModel.open(seal(folder, fields)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("goal_pose", "command"),
    [
        (RelativePose(2.0, 0.0, 0.0, 0.05, 0.05), [0.6, 0.0]),
        (RelativePose(0.0, -1.0, 0.0, 0.05, 0.05), [0.0, -1.25]),
    ],
)
def test_robot_steers_to_a_given_pose(
    steered: WorldModel, goal_pose: RelativePose, command: list[float]
) -> None:
    world, robot = Plane(), SimulatedRobot(steered, preset("steering"), period_s=STEP_S / 6)
    robot.set_goal(world.render_goal())
    commands = [robot.step(world.render(), goal_pose=goal_pose) for _ in range(3)]
    np.testing.assert_allclose(commands[-1], command, atol=1e-6)


def test_robot_steers_to_the_pose_that_its_model_reads(steered: WorldModel) -> None:
    world, robot = Plane(), SimulatedRobot(steered, preset("steering"), period_s=STEP_S / 6)
    robot.set_goal(world.render_goal())
    commands = [robot.step(world.render()) for _ in range(3)]
    assert commands[-1].any() and not robot.stops


def test_steering_with_a_model_that_reads_no_poses_raises(model: WorldModel) -> None:
    with pytest.raises(WorldError, check=code("sim.no_poses")):
        SimulatedRobot(model, preset("steering"), period_s=STEP_S)


def test_model_driver_same_seed_drives_the_same_way(model: WorldModel) -> None:
    def distance(seed: int) -> float:
        world = Plane(max_steps=3)
        return run_episode(
            world, model_driver(model, ControllerConfig(), world.task), seed=seed, step_s=STEP_S
        ).distance

    assert distance(4) == distance(4)


@pytest.mark.parametrize(
    ("tick_s", "images"), [(None, 6), (0.2, 1), (0.1, 2), (0.05, 4), (0.04, 5), (0.02, 5), (0.0125, 4)]
)
def test_adapted_images_per_step_divide_the_ticks(
    model: WorldModel, tick_s: float | None, images: int
) -> None:
    config = adapted(ControllerConfig(), model.manifest, Plane(tick_s=tick_s).task)
    assert config.images_per_step == images and config.search.horizon == HORIZON


def test_adapted_actions_that_are_no_rates_have_one_image_per_step(model: WorldModel) -> None:
    action = model.manifest.io.action.model_copy(update={"units": ("m", "m")})
    manifest = model.manifest.model_copy(
        update={"io": model.manifest.io.model_copy(update={"action": action})}
    )
    assert adapted(ControllerConfig(), manifest, Plane().task).images_per_step == 1


@pytest.mark.parametrize("has_noise", [False, True])
def test_adapted_check_for_frozen_images_needs_sensor_noise(model: WorldModel, has_noise: bool) -> None:
    task = replace(Plane().task, has_sensor_noise=has_noise)
    assert (adapted(ControllerConfig(), model.manifest, task).frozen_after_s > 0) is has_noise


def test_run_episode_counts_model_steps() -> None:
    driver = Driver(lambda _world, _seed: lambda _image: np.zeros(2), images_per_step=4)
    episode = run_episode(Plane(max_steps=3), driver, seed=0, step_s=STEP_S)
    assert episode.steps == 3 and len(episode.plan_ms) == 12
