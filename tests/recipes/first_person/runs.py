"""Tiny training runs, and what is compared between two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_export.training.stage import TrainingStage
from jepa_recipes.first_person.clips import ClipShape
from jepa_recipes.first_person.library import LibrarySize
from jepa_recipes.first_person.schedule import Amount, Schedule
from jepa_recipes.first_person.sizes import NetworkSize
from jepa_recipes.first_person.training import Recipe

SHAPE = ClipShape(drives=2, frames=6, turned=1, consecutive=1)
BATCH = SHAPE.drives * SHAPE.frames
TINY = Recipe(
    library=LibrarySize(layouts=1, drives=3, steps=16),
    held_out=LibrarySize(layouts=1, drives=2, steps=40),
    amount=Amount(
        clips=SHAPE,
        pairs=4,
        schedule=Schedule(
            warmup=2 * BATCH,
            pose=(0, 2 * BATCH),
            prediction=2 * BATCH,
            reach=(0, 4 * BATCH),
            decay=3 * BATCH,
            evaluation=3 * BATCH,
        ),
        evaluation_batches=1,
    ),
    masked=Amount(
        clips=ClipShape(drives=3, frames=4, turned=0, consecutive=3),
        pairs=0,
        schedule=Schedule(warmup=2 * BATCH, decay=3 * BATCH, evaluation=3 * BATCH),
        evaluation_batches=2,
    ),
    prediction=Amount(
        clips=ClipShape(drives=2, frames=6, turned=0, consecutive=2),
        pairs=0,
        schedule=Schedule(
            warmup=2 * BATCH, prediction=0, reach=(0, BATCH), decay=3 * BATCH, evaluation=3 * BATCH
        ),
        evaluation_batches=1,
    ),
    teacher=NetworkSize(dim=32, encoder_depth=1, encoder_heads=2, predictor_depth=1),
)


def tables(folder: Path) -> dict[str, str]:
    """Return the tables of a run by file name."""
    return {path.name: path.read_text() for path in (folder / "checkpoints").glob("*.csv")}


def checkpoint(folder: Path, stage: str) -> dict[str, Any]:
    """Return the last checkpoint of a stage."""
    state: dict[str, Any] = torch.load(folder / "checkpoints" / f"{stage}.pt", weights_only=True)
    return state


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Check that two checkpoints are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def interrupt(monkeypatch: pytest.MonkeyPatch, stage: str, at: int) -> None:
    """Interrupt a stage before a step, as Ctrl-C does."""
    train_step = TrainingStage.train_step

    def interrupted(self: TrainingStage, step: int) -> dict[str, float]:
        if self.name == stage and step == at:
            raise KeyboardInterrupt
        return train_step(self, step)

    monkeypatch.setattr(TrainingStage, "train_step", interrupted)
