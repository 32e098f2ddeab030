"""TwoRoom of stable-worldmodel as a world to train in."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_recipes.stable_worldmodel.recordings import extract
from jepa_recipes.stable_worldmodel.two_room import BLOCK, SOURCE, TwoRoomTrainingWorld
from tests.recipes.stable_worldmodel.datasets import dot_dataset

STEP_PX = 5.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TwoRoomTrainingWorld:
    folder = tmp_path_factory.mktemp("recordings")
    extract(dot_dataset([20, 3, *[14] * 8], STEP_PX), SOURCE, folder)
    return TwoRoomTrainingWorld(folder)


def test_actions_of_a_window_explain_its_motion(world: TwoRoomTrainingWorld) -> None:
    drawn = world.record((0, 1), layouts=3, trajectories=4, frames=4)
    assert drawn.frames.shape == (3, 4, 4, 128, 128, 3) and drawn.actions.shape == (3, 4, 3, 2)
    moved = np.diff(drawn.positions, axis=2)
    np.testing.assert_allclose(moved, BLOCK * STEP_PX * drawn.actions, atol=1e-4)
    repeated = world.record((0, 1), layouts=3, trajectories=4, frames=4)
    np.testing.assert_array_equal(drawn.positions, repeated.positions)


def test_window_shows_one_recording(world: TwoRoomTrainingWorld) -> None:
    drawn = world.record((0, 2), layouts=10, trajectories=10, frames=5)
    episodes = drawn.frames[..., 0, 0, 0]
    assert (episodes == episodes[..., :1]).all()


def test_held_out_recordings_are_not_trained_on(world: TwoRoomTrainingWorld) -> None:
    trained = world.record((0, 3), layouts=10, trajectories=10, frames=2).frames[..., 0, 0, 0]
    held_out = world.held_out().record((0, 3), layouts=10, trajectories=10, frames=2).frames[..., 0, 0, 0]
    assert set(np.unique(held_out)) == {9} and 9 not in trained


def test_standing_agent_repeats_its_frame(world: TwoRoomTrainingWorld) -> None:
    drawn = world.record((0, 4), layouts=2, trajectories=1, frames=2, standing=True)
    assert not drawn.actions.any() and not np.diff(drawn.positions, axis=2).any()
