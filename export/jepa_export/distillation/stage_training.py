"""Training of a distillation stage on clips, in one process or in several (Lightning Fabric).

A step follows from the weights, the state of the optimizer and the number of the step alone, so a resumed run
has the losses that an uninterrupted run would have had. Losses, clips and checkpoints refer to the whole
batch, no matter how it is divided among processes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.data.batches import Batch, Batches
from jepa_export.data.clip_windows import Windows
from jepa_export.distillation.collapse import CollapseAlarm, LatentStatistics, latent_statistics
from jepa_export.distillation.requests import Precision
from jepa_export.distillation.stages import DistillationStage
from jepa_export.errors import JepaExportError
from jepa_export.training.progress_log import HELD_OUT, ProgressLog
from jepa_export.training.stage import WARMUP_STEPS, TrainingStage, cosine_decay, run_stage, warmup

_LOG = logging.getLogger(__name__)
_CLIP_NORM, _WEIGHT_DECAY = 1.0, 0.05
# Table of latent statistics; part of a file name.
_VARIETY = "variety"
# Values of each input that a checkpoint stores, and the relative difference that rounding on another machine
# may cause.
_FINGERPRINT_VALUES, _ROUNDING = 4096, 0.05


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of the training of one stage.

    Attributes:
        batch: Clips per step, over all processes.
        checkpoint_every: Steps between two checkpoints.
        watch_every: Steps between two evaluations of held-out clips.
        max_collapses: Consecutive collapses after which training ends (None: never).
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    checkpoint_every: int
    watch_every: int
    max_collapses: int | None


@dataclass
class BestWeights:
    """The lowest loss of held-out clips, and the weights that had it (None: not evaluated yet)."""

    loss: float = math.inf
    network: dict[str, Tensor] | None = None

    def update(self, loss: float, stage: DistillationStage) -> None:
        """FrameStore the weights of ``stage`` if ``loss`` is the lowest so far."""
        if loss < self.loss:
            weights = {name: value.to("cpu", copy=True) for name, value in stage.state_dict().items()}
            self.loss, self.network = loss, weights


class ShardedBatches(Batches):
    """The clips of each batch that one of ``world_size`` processes trains on.

    Raises:
        JepaExportError: The batch cannot be divided evenly.
    """

    def __init__(self, windows: Windows, *, size: int, seed: int, rank: int, world_size: int) -> None:
        if size % world_size:
            raise JepaExportError(
                f"--batch: must be a multiple of the {world_size} processes, got {size}",
                code="data.batch_size",
            )
        super().__init__(windows, size=size, seed=seed)
        self._rank, self._world_size = rank, world_size

    def indices(self, step: int) -> NDArray[np.int64]:
        return super().indices(step)[self._rank :: self._world_size]


def start_fabric(precision: Precision) -> Fabric:
    """Start one process on the best device of this machine, or join the processes that torchrun started.

    Raises:
        JepaExportError: The precision is unknown or not supported on this machine.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        fabric = Fabric(devices=local_size, num_nodes=world_size // local_size, precision=precision)
    except (ValueError, RuntimeError) as error:
        raise JepaExportError(
            f"training cannot start with precision {precision} on {local_size} devices: {error}",
            code="training.precision",
        ) from error
    fabric.launch()
    return fabric


def train_stage(
    fabric: Fabric,
    stage: DistillationStage,
    windows: Windows,
    held_out: Batch,
    folder: Path,
    settings: StageSettings,
    *,
    trained_on: bool,
    tensorboard: bool,
) -> None:
    """Train ``stage`` to its end, and leave it with the weights that had the lowest loss on ``held_out``.

    Resumes from ``folder``/<name>.pt if it exists; <name>.csv holds the losses of each step.

    Args:
        fabric: Processes and precision.
        stage: The network to train.
        windows: Training clips.
        held_out: Clips whose loss is evaluated and whose latents are checked for collapse.
        folder: Folder of the run.
        settings: Settings of the training.
        trained_on: ``held_out`` are training clips, as no others exist: the last weights are used.
        tensorboard: Also write TensorBoard events.

    Raises:
        JepaExportError: The loss is not finite, latents collapsed, a frame cannot be read, the disk is full,
            or the checkpoint belongs to other inputs.
    """
    training = _ClipTraining(fabric, stage, windows, held_out, settings, trained_on=trained_on)
    run_stage(training, folder, checkpoint_every=settings.checkpoint_every, tensorboard=tensorboard)
    if training.best.network:
        stage.load_state_dict(training.best.network)
    fabric.barrier()


class _ClipTraining(TrainingStage):
    """Training of a distillation stage on clips, with evaluations on held-out clips in between."""

    def __init__(
        self,
        fabric: Fabric,
        stage: DistillationStage,
        windows: Windows,
        held_out: Batch,
        settings: StageSettings,
        *,
        trained_on: bool,
    ) -> None:
        super().__init__(
            fabric,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            clip_norm=_CLIP_NORM,
            warmup_steps=min(WARMUP_STEPS, settings.steps // 10),
        )
        self.name = stage.name
        self.tables = (_VARIETY,) if trained_on else (_VARIETY, HELD_OUT)
        self._stage, self._settings, self._trained_on = stage, settings, trained_on
        self._raw_optimizer = torch.optim.AdamW(
            stage.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        self.network, self.optimizer = fabric.setup(stage, self._raw_optimizer)
        self.best, self._alarm = BestWeights(), CollapseAlarm(settings.max_collapses)
        # Evaluated in parts, so that the teacher processes no more clips at a time than in a step.
        self._held_out = _split(held_out, max(1, settings.batch // fabric.world_size))
        self._fingerprint = self._input_fingerprint()
        batches = {"size": settings.batch, "seed": settings.seed}
        self._whole = Batches(windows, **batches)
        self._shard = ShardedBatches(
            windows, **batches, rank=fabric.global_rank, world_size=fabric.world_size
        )
        self._batches: Iterator[Batch] | None = None

    def losses(self, step: int) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = self._shard.iterate(step, self.steps)
        batch = next(self._batches)
        with torch.no_grad(), self.fabric.autocast():
            inputs = self._stage.inputs(batch, self.fabric.device)
        terms: dict[str, Tensor] = self.network(*inputs)
        return terms

    def learning_rate(self, step: int) -> float:
        # The factors first: in another order, rounding would change the losses of resumed runs.
        return self._learning_rate * (warmup(step, self._warmup_steps) * cosine_decay(step, self.steps))

    def after_step(self, step: int, log: ProgressLog | None) -> None:
        if (step + 1) % self._settings.watch_every and step + 1 < self.steps:
            return
        statistics, values = self._evaluate()
        self.check_finite(values["loss"], "the held-out loss", step)
        if not self._trained_on:
            self.best.update(values["loss"], self._stage)
        if log:
            log.log_evaluation(_VARIETY, step, {"rank": statistics.rank, "std": statistics.std})
            if not self._trained_on:
                log.log_held_out(step, values, self.best.loss)
        if (warning := self._alarm.update(statistics, step)) and log:
            _LOG.warning("stage %s, %s", self.name, warning)

    def failure_advice(self, step: int) -> str:
        clips = self._whole.indices(step)
        listed = ", ".join(str(clip) for clip in clips[:8]) + (", …" if len(clips) > 8 else "")
        return (
            f"resuming would repeat it: check the actions of its batch (clips {listed}), lower "
            "--learning-rate, "
            "and choose another --output"
        )

    def checkpoint(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "network": self._stage.state_dict(),
            "optimizer": self._raw_optimizer.state_dict(),
            "alarms": self._alarm.count,
            "best": vars(self.best),
            "given": self._fingerprint,
        }

    def restore(self, state: dict[str, Any], source: Path) -> int:
        try:
            self._stage.load_state_dict(state["network"])
            self._raw_optimizer.load_state_dict(state["optimizer"])
            self._alarm.count = int(state["alarms"])
            self.best.loss, self.best.network = float(state["best"]["loss"]), state["best"]["network"]
            differences = {
                name: float((values - state["given"][name]).norm())
                for name, values in self._fingerprint.items()
            }
            step = int(state["step"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise JepaExportError(
                f"{source}: written with other settings or by another version of jepa-edge "
                f"({str(error).splitlines()[0]}); choose another --output or remove the file",
                code="training.settings_mismatch",
            ) from error
        for name, values in self._fingerprint.items():
            if not differences[name] <= _ROUNDING * float(values.norm()):
                raise JepaExportError(
                    f"{source}: the {name} of this stage differ from those that the run began with, so it "
                    "would "
                    "learn half from each; continue with the version of jepa-edge that began the run, choose "
                    "another --output, or remove the folder to start over",
                    code="training.inputs_changed",
                )
        return step

    def _evaluate(self) -> tuple[LatentStatistics, dict[str, float]]:
        """Return the statistics of the latents of the held-out clips, and the losses of these clips."""
        latents: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        count = sum(len(part.frames) for part in self._held_out)
        with torch.no_grad(), self.fabric.autocast():
            for part in self._held_out:
                inputs = self._stage.inputs(part, self.fabric.device)
                latents.append(self._stage.monitored_latents(*inputs))
                for name, mean in self._stage(*inputs).items():
                    terms[name] = terms.get(name, torch.zeros_like(mean)) + mean * (len(part.frames) / count)
        return latent_statistics(torch.cat(latents)), self.reduce(terms)[1]

    def _input_fingerprint(self) -> dict[str, Tensor]:
        """Return some values of each input of the stage.

        They reveal what settings do not: another teacher, or a change in how frames are prepared, targets
        computed or actions scaled.
        """
        with torch.no_grad(), self.fabric.autocast():
            inputs = [
                [each.cpu() for each in self._stage.inputs(part, self.fabric.device)]
                for part in self._held_out
            ]
        generator = torch.Generator().manual_seed(0)
        whole = [torch.cat(parts).flatten() for parts in zip(*inputs, strict=True)]
        return {
            name: values[torch.randint(len(values), (_FINGERPRINT_VALUES,), generator=generator)].float()
            for name, values in zip(self._stage.input_names, whole, strict=True)
        }


def _split(clips: Batch, size: int) -> list[Batch]:
    return [
        Batch(
            clips.frames[first : first + size],
            clips.stamps_ns[first : first + size],
            None if clips.actions is None else clips.actions[first : first + size],
        )
        for first in range(0, len(clips.frames), size)
    ]
