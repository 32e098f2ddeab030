"""Training: a run that was killed at any step resumes with identical results."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.errors import JepaExportError
from jepa_export.training.stage import TrainingStage
from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
from jepa_recipes.two_token import training
from jepa_recipes.two_token.metrics import joint_r2
from jepa_recipes.two_token.networks import Encoder, JointEstimate, Predictor
from jepa_recipes.two_token.representation import RepresentationStage
from jepa_recipes.two_token.training import Recipe, TrainedModel
from tests.errors import code

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("representation", "dynamics", "grounding")
# Twice at the same step: the second run is killed before its own first checkpoint.
KILLS = [("representation", 3), ("representation", 3), ("dynamics", 3), ("grounding", 3)]


def run_until_killed(folder: Path, stage: str, step: int) -> None:
    """Train in a process that is killed at ``step`` of ``stage`` and must leave no children behind."""
    command = [sys.executable, "-m", "tests.recipes.interrupted", str(folder), stage, str(step)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True, text=True, **pipes)
    try:
        _, output = child.communicate(timeout=90)
        assert child.returncode == -signal.SIGKILL, output
        assert group_ends(child.pid, within_s=15), "a process of the killed run lives on"
    finally:
        if not group_ends(child.pid, within_s=0):
            os.killpg(child.pid, signal.SIGKILL)


def group_ends(group: int, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def assert_identical(one: Any, other: Any, where: str) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_identical(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_run_killed_in_every_stage_reproduces_losses_and_weights_exactly(
    tiny_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    from tests.recipes.interrupted import train_tiny

    undisturbed, expected = tiny_run
    killed = tmp_path / "run"
    for stage, step in KILLS:
        run_until_killed(killed, stage, step)
    model = train_tiny(killed)
    for stage in STAGES:
        assert (killed / f"{stage}.csv").read_text() == (undisturbed / f"{stage}.csv").read_text(), stage
        ours, theirs = (torch.load(run / f"{stage}.pt", weights_only=True) for run in (killed, undisturbed))
        assert_identical(ours, theirs, stage)
    for name in ("encoder", "predictor", "energy"):
        assert_identical(getattr(model, name).state_dict(), getattr(expected, name).state_dict(), name)
    assert sorted(path.name for path in killed.iterdir()) == sorted(
        path.name for path in undisturbed.iterdir()
    )


def test_every_step_writes_one_row_of_losses_that_sum_to_the_first(
    tiny_run: tuple[Path, TrainedModel],
) -> None:
    steps = {"representation": 4, "dynamics": 6, "grounding": 4}
    for stage, count in steps.items():
        head, *rows = [line.split(",") for line in (tiny_run[0] / f"{stage}.csv").read_text().splitlines()]
        assert head[:2] == ["step", "loss"]
        assert [int(row[0]) for row in rows] == list(range(count))
        values = np.array([[float(value) for value in row[1:]] for row in rows])
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[:, 0], values[:, 1:].sum(axis=1), rtol=1e-5)


def test_finished_run_is_loaded_without_training(
    tiny_run: tuple[Path, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.recipes.interrupted import train_tiny

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(TrainingStage, "train_step", refuse)
    resumed = train_tiny(tiny_run[0])
    assert_identical(resumed.energy.state_dict(), tiny_run[1].energy.state_dict(), "energy")
    np.testing.assert_array_equal(resumed.held_out.frames, tiny_run[1].held_out.frames)


def test_folder_of_other_settings_is_rejected_and_unchanged(
    tiny_run: tuple[Path, TrainedModel], tiny_recipe: Recipe
) -> None:
    folder = tiny_run[0]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        training.train(folder, seed=1, training_world=TwoRoomsTrainingWorld("random"), recipe=tiny_recipe)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        training.train(folder, seed=0, training_world=TwoRoomsTrainingWorld("fixed"), recipe=tiny_recipe)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        training.train(folder, seed=0, training_world=TwoRoomsTrainingWorld("random"))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_training_on_one_layout_has_no_scene_to_discriminate() -> None:
    with ThreadPoolExecutor(1) as renderer:
        stage = RepresentationStage(
            0,
            Encoder(),
            Predictor(),
            training_world=TwoRoomsTrainingWorld("fixed"),
            steps=1,
            renderer=renderer,
        )
        values = stage.train_step(0)
    assert values["scene"] == 0.0
    assert values["predictive_contrast"] > 0


@dataclass(frozen=True)
class JointedWorld(TwoRoomsTrainingWorld):
    """Two Rooms whose coordinates are those of two joints, in rad."""

    joints = 2

    def record(self, *arguments: Any, **options: Any) -> Recordings:
        drawn = super().record(*arguments, **options)
        return replace(drawn, joints=drawn.positions)


def test_joint_angles_replace_predictive_contrast() -> None:
    with ThreadPoolExecutor(1) as renderer:
        stage = RepresentationStage(
            0, Encoder(), Predictor(), training_world=JointedWorld("fixed"), steps=3, renderer=renderer
        )
        values = [stage.train_step(step) for step in range(3)]
    assert "predictive_contrast" not in values[0]
    assert values[2]["joints"] < values[0]["joints"]


class FirstPixel(nn.Module):
    """An encoder whose robot token starts with two sines and cosines that are stored in the first pixel."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames[:, 0, 0, None, :].float().repeat(1, 2, 1)


def test_r2_of_joints_is_that_of_their_cosines_and_sines() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-3, 3, (2, 3, 4, 1)).astype(np.float32)
    levels = np.round(127.5 + 127 * np.concatenate([np.cos(angles), np.sin(angles)], -1))
    frames = np.zeros((2, 3, 4, 1, 1, 3), np.uint8)
    frames[..., 0, 0, :2] = levels
    unused = np.zeros((2, 3, 3, 2), np.float32)
    held_out = Recordings(frames, unused, unused, joints=angles)
    read = JointEstimate(1, dim=3)
    with torch.no_grad():
        read.out.weight.copy_(torch.tensor([[1 / 127, 0, 0], [0, 1 / 127, 0]]))
        read.out.bias.fill_(-127.5 / 127)
    assert joint_r2(FirstPixel(), read, held_out)[0] > 0.999
    with torch.no_grad():
        read.out.weight[1] = 0
        read.out.bias[1] = float(np.sin(angles).mean())
    assert joint_r2(FirstPixel(), read, held_out)[0] == pytest.approx(
        float(np.cos(angles).var() / (np.cos(angles).var() + np.sin(angles).var())), abs=0.01
    )


def test_training_ends_if_the_encoder_does_not_represent_the_joints(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    world, recipe = JointedWorld("fixed"), replace(tiny_recipe, min_joints_r2=0.999)
    with pytest.raises(JepaExportError, match=r"0\.999", check=code("training.joints_not_represented")):
        training.train(tmp_path / "run", seed=0, training_world=world, recipe=recipe)
    assert not (tmp_path / "run" / training.LIBRARY).exists()
    model = training.train(
        tmp_path / "free", seed=0, training_world=world, recipe=replace(recipe, min_joints_r2=-math.inf)
    )
    assert model.training_world is world
