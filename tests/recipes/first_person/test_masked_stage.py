"""The masked stage: it learns, its targets follow the encoder, and a collapse ends it."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.distillation.collapse import MIN_RANK, MIN_STD
from jepa_export.errors import JepaExportError
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.masked import MaskedBatch, MaskedStage
from jepa_recipes.first_person.networks import FrameEncoder
from jepa_recipes.first_person.stage import StageSettings
from tests.errors import code
from tests.recipes.first_person.runs import TINY


class OneBatch(MaskedStage):
    """Training on one batch again and again."""

    def draw(self, step: int) -> MaskedBatch:
        return super().draw(step % 1)


@pytest.fixture(scope="module")
def renderer() -> Executor:
    return ThreadPoolExecutor(1)


def masked_stage(
    drives: DriveLibrary, renderer: Executor, folder: Path, kind: type[MaskedStage] = MaskedStage
) -> MaskedStage:
    torch.manual_seed(0)
    size = replace(TINY.teacher, encoder_depth=2)
    settings = StageSettings(
        library=drives,
        held_out=drives,
        amount=TINY.masked,
        seed=0,
        steps=30,
        renderer=renderer,
        checkpoints=folder,
    )
    return kind(FrameEncoder(size), settings)


def test_masked_stage_lowers_its_loss_without_collapse(
    drives: DriveLibrary, renderer: Executor, tmp_path: Path
) -> None:
    stage = masked_stage(drives, renderer, tmp_path, OneBatch)
    losses = []
    for step in range(stage.steps):
        losses.append(stage.train_step(step)["masked"])
        stage.after_step(step, None)
    row = stage.evaluate()["held_out"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert row["std"] > 5 * MIN_STD and row["rank"] > 2 * MIN_RANK
    assert row["mean_predicted"] > 0.1


def test_masked_stage_trains_on_single_frames_in_every_fourth_step(
    drives: DriveLibrary, renderer: Executor, tmp_path: Path
) -> None:
    stage = masked_stage(drives, renderer, tmp_path)
    shapes = [stage.draw(step).clips.shape[:2] for step in range(8)]
    assert shapes == [(3, 4), (3, 4), (3, 4), (12, 1)] * 2


def test_masked_stage_collapse_is_reported(drives: DriveLibrary, renderer: Executor, tmp_path: Path) -> None:
    stage = masked_stage(drives, renderer, tmp_path)
    assert stage.evaluate()["held_out"]["std"] > MIN_STD
    # Without content, tokens differ by their place in the image alone.
    torch.nn.init.zeros_(stage.target.frame.convolutions[-1].weight)
    with pytest.raises(JepaExportError, check=code("training.collapse")):
        stage.evaluate()


def test_masked_stage_target_follows_the_encoder_and_gets_no_gradient(
    drives: DriveLibrary, renderer: Executor, tmp_path: Path
) -> None:
    stage = masked_stage(drives, renderer, tmp_path)
    target, encoder = stage.target.frame.norm.weight, stage.encoder.frame.norm.weight
    before = target.clone()
    stage.train_step(0)
    assert torch.equal(target, before) and not torch.equal(encoder, before)
    stage.after_step(0, None)
    torch.testing.assert_close(target, before.lerp(encoder, 0.9))
    stage.after_step(10_000, None)
    torch.testing.assert_close(target, before.lerp(encoder, 0.9).lerp(encoder, 0.004))
    assert target.grad is None
