"""Training: a run that was killed at any step resumes with identical results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_export.data.two_rooms_recordings import TwoRoomsTrainingWorld
from jepa_export.errors import JepaExportError
from jepa_export.students.two_rooms_networks import Encoder, Predictor
from jepa_export.training import two_rooms_recipe
from jepa_export.training.prefetch import AHEAD, in_order
from jepa_export.training.representation import RepresentationStage
from jepa_export.training.stage import ModuleStage, TrainingStage, run_stage
from jepa_export.training.two_rooms_recipe import Recipe, TrainedModel
from tests.errors import code

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("representation", "dynamics", "grounding")
# Twice at the same step: the second run is killed before its own first checkpoint.
KILLS = [("representation", 3), ("representation", 3), ("dynamics", 3), ("grounding", 3)]


def run_until_killed(folder: Path, stage: str, step: int) -> None:
    """Train in a process that is killed at ``step`` of ``stage`` and must leave no children behind."""
    command = [sys.executable, "-m", "tests.export.interrupted", str(folder), stage, str(step)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True, text=True, **pipes)
    try:
        _, said = child.communicate(timeout=90)
        assert child.returncode == -signal.SIGKILL, said
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
def test_a_run_killed_in_every_stage_repeats_losses_and_weights_to_the_last_bit(
    tiny_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    from tests.export.interrupted import train_tiny

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


def test_every_step_leaves_one_row_of_losses_that_sum_to_the_first(
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


def test_a_finished_run_is_taken_up_without_training_anything(
    tiny_run: tuple[Path, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.export.interrupted import train_tiny

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(TrainingStage, "train_step", refuse)
    again = train_tiny(tiny_run[0])
    assert_identical(again.energy.state_dict(), tiny_run[1].energy.state_dict(), "energy")
    np.testing.assert_array_equal(again.held_out.frames, tiny_run[1].held_out.frames)


def test_a_folder_of_other_settings_is_refused_and_left_alone(
    tiny_run: tuple[Path, TrainedModel], tiny_recipe: Recipe
) -> None:
    folder = tiny_run[0]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        two_rooms_recipe.train(
            folder, seed=1, training_world=TwoRoomsTrainingWorld("random"), recipe=tiny_recipe
        )
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        two_rooms_recipe.train(
            folder, seed=0, training_world=TwoRoomsTrainingWorld("fixed"), recipe=tiny_recipe
        )
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        two_rooms_recipe.train(folder, seed=0, training_world=TwoRoomsTrainingWorld("random"))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


class Line(ModuleStage):
    """Fits a line to noise; its loss is multiplied by ``value`` from step ``bad`` on."""

    name = "line"

    def __init__(self, *, steps: int = 6, bad: int | None = None, value: float = float("nan")) -> None:
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)
        super().__init__({"line": self.line}, steps=steps, learning_rate=0.1, clip_norm=1.0)
        self._bad, self._value = bad, value

    def losses(self, step: int) -> dict[str, Tensor]:
        fit = self.line(torch.randn(8, 3)).pow(2).mean()
        return {"fit": fit * (self._value if self._bad is not None and step >= self._bad else 1.0)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_diverges_is_reported_with_stage_and_step_and_keeps_the_checkpoint(
    tmp_path: Path, value: float
) -> None:
    with pytest.raises(JepaExportError, check=code("training.not_finite")):
        run_stage(Line(bad=5, value=value), tmp_path, checkpoint_every=2)
    saved = torch.load(tmp_path / "line.pt", weights_only=True)
    assert saved["step"] == 4
    assert all(torch.isfinite(weights).all() for weights in saved["modules"].values())


def test_a_gradient_that_is_no_number_is_reported_before_it_reaches_the_weights(tmp_path: Path) -> None:
    class Rooted(Line):
        def losses(self, step: int) -> dict[str, Tensor]:
            # The square root of zero: a loss of 0 with an infinite gradient.
            return super().losses(step) | {"root": (0 * self.line.weight).sum().abs().sqrt()}

    with pytest.raises(JepaExportError, check=code("training.not_finite")):
        run_stage(Rooted(), tmp_path)
    assert not (tmp_path / "line.pt").exists()


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    run_stage(Line(), tmp_path)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        run_stage(Line(steps=7), tmp_path)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    stage = Line(steps=1000)
    rates = []
    for step in (0, 99, 500, 999):
        stage.train_step(step)
        rates.append(stage.optimizer.param_groups[0]["lr"] / 0.1)
    assert rates == pytest.approx([0.01, 0.976, 0.505, 0.01], abs=2e-3)


def test_with_one_layout_there_is_no_scene_to_tell_apart() -> None:
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
    assert values["foresight"] > 0


def test_results_come_in_order_and_only_a_few_are_drawn_ahead() -> None:
    drawn: list[int] = []

    def draw(index: int) -> int:
        drawn.append(index)
        return index * index

    with ThreadPoolExecutor(2) as pool:
        results = in_order(lambda index: pool.submit(draw, index), 3, 20)
        assert next(results) == 9
        assert len(drawn) <= AHEAD + 1
        assert list(results) == [index * index for index in range(4, 20)]
