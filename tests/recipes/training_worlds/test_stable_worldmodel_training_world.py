"""Windows of recordings of stable-worldmodel; a dataset in memory stands in for the package's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_export.errors import JepaExportError
from jepa_recipes.training_worlds.stable_worldmodel import BLOCK, SIDE_PX, TwoRoomTrainingWorld, extract
from tests.errors import code

torch = pytest.importorskip("torch")
STEP_PX = 5.0


def dataset(lengths: list[int]) -> Any:
    """Return recordings of an agent that moves by STEP_PX times its actions; pixel (0, 0) has its row."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate(lengths):
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        moved = np.cumsum(STEP_PX * actions, axis=0)
        positions = np.concatenate([np.zeros((1, 2)), moved[:-1]]).astype(np.float32)
        pixels = torch.full((length, 3, SIDE_PX, SIDE_PX), number, dtype=torch.uint8)
        episodes.append(
            {"action": torch.from_numpy(actions), "state": torch.from_numpy(positions), "pixels": pixels}
        )
    return SimpleNamespace(lengths=np.array(lengths), load_episode=episodes.__getitem__)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TwoRoomTrainingWorld:
    folder = tmp_path_factory.mktemp("recordings")
    extract(dataset([20, 3, *[14] * 8]), folder)
    return TwoRoomTrainingWorld(folder)


def test_actions_of_a_window_explain_its_motion(world: TwoRoomTrainingWorld) -> None:
    drawn = world.record((0, 1), layouts=3, trajectories=4, frames=4)
    assert drawn.frames.shape == (3, 4, 4, 128, 128, 3) and drawn.actions.shape == (3, 4, 3, 2)
    moved = np.diff(drawn.positions, axis=2)
    np.testing.assert_allclose(moved, BLOCK * STEP_PX * drawn.actions, atol=1e-4)
    repeated = world.record((0, 1), layouts=3, trajectories=4, frames=4)
    np.testing.assert_array_equal(drawn.positions, repeated.positions)


def test_windows_end_within_their_recording(world: TwoRoomTrainingWorld) -> None:
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


def test_recordings_that_are_too_short_are_named(world: TwoRoomTrainingWorld) -> None:
    with pytest.raises(
        JepaExportError, match="no recording has 31 steps", check=code("training.too_few_recordings")
    ):
        world.record((0, 5), layouts=1, trajectories=1, frames=11)
