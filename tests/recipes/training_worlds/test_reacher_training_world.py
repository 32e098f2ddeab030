"""The reacher is trained with the recipe of Two Rooms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jepa_export.cli import main
from jepa_export.data.two_rooms_recordings import STEP_S
from jepa_recipes.training_worlds.reacher import ReacherTrainingWorld
from jepa_recipes.two_token.bundle import write_two_token_bundle
from jepa_recipes.two_token.training import Recipe, train
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import WorldError
from jepa_sim.closed_loop.run import Plan, closed_loop
from jepa_sim.worlds.reacher import LINKS_M, MAX_JOINT_RADPS, Reacher, fingertip


@pytest.fixture(scope="module")
def training_world() -> ReacherTrainingWorld:
    pytest.importorskip("mujoco", reason="mujoco is not installed (extra worlds)")
    pytest.importorskip("gymnasium", reason="gymnasium is not installed (extra worlds)")
    try:
        Reacher().close()
    except WorldError as error:
        pytest.skip(str(error))
    return ReacherTrainingWorld()


def test_recordings_follow_from_the_seed_and_stay_within_reach(training_world: ReacherTrainingWorld) -> None:
    drawn = training_world.record((0, 1), layouts=2, trajectories=2, frames=3)
    assert drawn.frames.shape == (2, 2, 3, 128, 128, 3) and drawn.actions.shape == (2, 2, 2, 2)
    assert np.linalg.norm(drawn.actions, axis=-1).max() <= MAX_JOINT_RADPS
    assert np.linalg.norm(drawn.positions, axis=-1).max() <= sum(LINKS_M) + 1e-6
    assert drawn.joints is not None and drawn.joints.shape == (2, 2, 3, training_world.joints)
    np.testing.assert_allclose(
        [[[fingertip(angles) for angles in run] for run in layout] for layout in drawn.joints],
        drawn.positions,
        atol=1e-6,
    )
    path = np.linalg.norm(np.diff(drawn.positions, axis=2), axis=-1)
    assert path.max() <= 2 * MAX_JOINT_RADPS * STEP_S * sum(LINKS_M)
    repeated = training_world.record((0, 1), layouts=2, trajectories=2, frames=3)
    np.testing.assert_array_equal(drawn.frames, repeated.frames)
    assert not np.array_equal(
        drawn.frames, training_world.record((0, 2), layouts=2, trajectories=2, frames=3).frames
    )


def test_arm_without_torque_does_not_move(training_world: ReacherTrainingWorld) -> None:
    drawn = training_world.record((0,), layouts=1, trajectories=1, frames=2, standing=True)
    assert not drawn.actions.any()
    np.testing.assert_allclose(drawn.positions[0, 0, 0], drawn.positions[0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("option", [["--layout", "fixed"], ["--distill"]])
def test_options_of_two_rooms_are_rejected(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "reacher", "--output", "x", *option])
    assert ended.value.code == 2
    assert "unrecognized arguments: " + " ".join(option) in capsys.readouterr().err


@pytest.mark.slow
def test_trained_model_becomes_a_bundle_that_reaches_goals(
    training_world: ReacherTrainingWorld, tmp_path: Path
) -> None:
    recipe = Recipe(
        representation_steps=2,
        layouts=4,
        dynamics_steps=4,
        temporal_distance_steps=2,
        held_out_layouts=4,
        min_joints_r2=-math.inf,
    )
    model = train(tmp_path / "run", seed=0, training_world=training_world, recipe=recipe)
    write_two_token_bundle(
        model,
        tmp_path / "bundle",
        model_id="reacher",
        version="1.0.0",
        command="a test",
        int8=False,
    )
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.io.action.names == training_world.action_names
    assert bundle.manifest.io.action.max_norm == MAX_JOINT_RADPS
    report = closed_loop(bundle, Reacher(), Plan(seeds=(0,), episodes=1))
    assert report.goals["straight_line"].successes == 1 and report.goals["fp32"].episodes == 1
