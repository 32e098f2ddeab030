"""Stages on frames of drives: they optimize and evaluate alike, and a finished one can be continued."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import load, save
from jepa_export.training.optimizers import CombinedOptimizer, muon_and_adamw
from jepa_export.training.prefetch import in_order
from jepa_export.training.progress_log import ProgressLog
from jepa_export.training.stage import ModuleStage, linear_decay, run_stage, warmup
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.schedule import Amount

_LEARNING_RATE, _CLIP_NORM = 1e-3, 1.0
_BatchT = TypeVar("_BatchT")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a stage is given by its run.

    Attributes:
        library: Drives for training.
        held_out: Drives for the evaluation.
        amount: Size of a batch, and the schedule.
        seed: Seed of the batches.
        steps: Number of steps.
        renderer: Prepares batches while this process trains.
        checkpoints: Folder of the checkpoints.
        bf16: Whether the networks compute in bf16 where that is accurate enough. Weights stay in fp32.
        depends_on: Further numbers that the result depends on, by name, such as the lengths of earlier
            stages.
    """

    library: DriveLibrary
    held_out: DriveLibrary
    amount: Amount
    seed: int
    steps: int
    renderer: Executor
    checkpoints: Path
    bf16: bool = False
    depends_on: dict[str, float] = field(default_factory=dict)


class DriveStage(ModuleStage, Generic[_BatchT]):
    """Stage whose batches follow from the seed and the step alone.

    The learning rate is constant between its warm-up and its decay, and nothing else depends on the length of
    the stage. A checkpoint from before the decay therefore belongs to stages of any length.

    Args:
        name: Name of the stage and of its files.
        modules: Modules to train, by their names in the checkpoint.
        settings: What the run gives to the stage.
    """

    def __init__(self, name: str, modules: dict[str, nn.Module], settings: StageSettings) -> None:
        self.name, self.settings = name, settings
        amount, steps = settings.amount, settings.steps
        self.decay_start = max(0, steps - amount.steps(amount.schedule.decay))
        self.before_decay = settings.checkpoints / f"{name}_before_decay.pt"
        super().__init__(
            modules,
            steps=steps,
            learning_rate=_LEARNING_RATE,
            clip_norm=_CLIP_NORM,
            warmup_steps=amount.steps(amount.schedule.warmup),
        )
        self._batches: Iterator[_BatchT] | None = None

    @abstractmethod
    def draw(self, step: int) -> _BatchT:
        """Return the batch of ``step``; called in the renderer."""

    @abstractmethod
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return a row of each of :attr:`tables`, measured on held-out drives."""

    def batch(self, step: int) -> _BatchT:
        """Return the batch of ``step``; steps are asked for in order."""
        if self._batches is None:
            self._batches = in_order(
                lambda index: self.settings.renderer.submit(self.draw, index), step, self.steps
            )
        return next(self._batches)

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks compute."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16)

    def create_optimizer(self) -> CombinedOptimizer:
        return muon_and_adamw(self.modules, self._learning_rate)

    def learning_rate(self, step: int) -> float:
        factor = warmup(step, self._warmup_steps) * linear_decay(step, self.decay_start, self.steps)
        return self._learning_rate * factor

    def extra_state(self) -> dict[str, Any]:
        return {"decay_start": self.decay_start, "depends_on": self.settings.depends_on}

    def restore(self, state: dict[str, Any], source: Path) -> int:
        before, now = state["extra"].get("depends_on", {}), self.settings.depends_on
        if before != now:
            raise JepaExportError(
                f"{source}: written by a stage with {before}, this one has {now}; use the same settings, or "
                "remove this file to start the stage over",
                code="training.settings_mismatch",
            )
        if state["step"] <= min(state["extra"]["decay_start"], self.decay_start):
            state = state | {"steps": self.steps}
        return super().restore(state, source)

    def after_step(self, step: int, log: ProgressLog | None) -> None:
        if log is None:
            return
        amount = self.settings.amount
        if (step + 1) % amount.steps(amount.schedule.evaluation) == 0 or step + 1 == self.steps:
            for table, values in self.evaluate().items():
                log.log_evaluation(table, step, values, prefix=f"{table}/")
        if step + 1 == self.decay_start:
            log.flush()
            save(self.checkpoint(step + 1), self.before_decay)


def run_drive_stage(stage: DriveStage[Any], *, checkpoint_every: int) -> None:
    """Train ``stage`` to its end; one that was shorter before continues from before its decay.

    Args:
        stage: The stage.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        JepaExportError: See :func:`~jepa_export.training.stage.run_stage`.
    """
    checkpoints = stage.settings.checkpoints
    latest = checkpoints / f"{stage.name}.pt"
    if latest.exists() and stage.before_decay.exists():
        state = load(latest)
        if state["steps"] != stage.steps and state["step"] > state["extra"]["decay_start"]:
            earlier = load(stage.before_decay)
            if earlier["step"] <= stage.decay_start:
                save(earlier, latest)
    run_stage(stage, checkpoints, checkpoint_every=checkpoint_every)


def discard_outdated(stage: DriveStage[Any]) -> None:
    """Remove the checkpoints of ``stage`` if what it depends on has changed, so that it starts over.

    Raises:
        JepaExportError: A checkpoint cannot be read.
    """
    latest = stage.settings.checkpoints / f"{stage.name}.pt"
    for checkpoint in (latest, stage.before_decay):
        if checkpoint.exists() and load(checkpoint)["extra"].get("depends_on") != stage.settings.depends_on:
            checkpoint.unlink()
