"""The loop of a stage, the same in one process and in many: Lightning Fabric spreads it.

A step follows from the weights, the optimiser's state and the step's number alone: a run that was killed goes
on with the losses that would have come. Losses, clips and checkpoints are of the whole batch, whatever share
of it a process has."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.data.batches import Batch, Batches
from jepa_export.data.clip_windows import Windows
from jepa_export.distillation.collapse import Alarm, Variety, variety
from jepa_export.distillation.progress_log import ProgressLog
from jepa_export.distillation.stages import Stage
from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import load, save

_LOG = logging.getLogger(__name__)
_WARM_UP, _CLIP_NORM, _WEIGHT_DECAY = 100, 1.0, 0.05
# How many numbers of each input a checkpoint keeps, and by which share of their norm rounding on another
# machine may change them.
_REMEMBERED, _ROUNDING = 4096, 0.05


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a stage is trained. ``batch`` counts clips over all processes; a checkpoint is left every
    ``checkpoint_every`` steps, latents are looked at every ``watch_every``, and training ends at the
    ``alarms``-th collapse in a row (None: it does not)."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    checkpoint_every: int
    watch_every: int
    alarms: int | None


@dataclass
class Best:
    """The least loss of held-out clips, and the weights that had it (None: there was no look yet)."""

    loss: float = math.inf
    network: dict[str, Tensor] | None = None

    def see(self, loss: float, stage: Stage) -> None:
        if loss < self.loss:
            weights = {name: value.to("cpu", copy=True) for name, value in stage.state_dict().items()}
            self.loss, self.network = loss, weights


class Share(Batches):
    """Of every batch, what one of ``world`` processes has."""

    def __init__(self, windows: Windows, *, size: int, seed: int, rank: int, world: int) -> None:
        if size % world:
            raise JepaExportError(f"--batch must be a multiple of the {world} processes, got {size}")
        super().__init__(windows, size=size, seed=seed)
        self._rank, self._world = rank, world

    def indices(self, step: int) -> NDArray[np.int64]:
        return super().indices(step)[self._rank :: self._world]


def fabric(precision: str) -> Fabric:
    """One process on this machine's best device, or one of those that torchrun started.

    Raises:
        JepaExportError: there is no such precision, or not here.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        made = Fabric(devices=local, num_nodes=world // local, precision=precision)
    except (ValueError, RuntimeError) as error:
        raise JepaExportError(
            f"cannot start with precision {precision} on {local} devices: {error}"
        ) from error
    made.launch()
    return made


def train(
    spread: Fabric,
    stage: Stage,
    windows: Windows,
    held_out: Batch,
    folder: Path,
    pace: Pace,
    *,
    seen: bool,
    board: bool,
) -> None:
    """Train ``stage`` to its end, going on from ``folder``/<name>.pt where that is; <name>.csv holds the
    losses of each step. In the end it has the weights with the least loss on ``held_out``.

    Args:
        held_out: clips in which collapse is looked for, and whose loss is watched.
        seen: ``held_out`` are trained on too, as there are no others: the last weights are kept.
        board: write TensorBoard events too.

    Raises:
        JepaExportError: the loss is no number, latents collapsed, a frame cannot be read, the disk is full,
            or it was begun on other inputs.
    """
    optimizer = torch.optim.AdamW(stage.parameters(), pace.learning_rate, weight_decay=_WEIGHT_DECAY)
    network, tuned = spread.setup(stage, optimizer)
    saved, chief = folder / f"{stage.name}.pt", spread.is_global_zero
    alarm, best = Alarm(pace.alarms), Best()
    # The teacher has no more of them at a time than in a step.
    pieces = _pieces(held_out, max(1, pace.batch // spread.world_size))
    given = _given(spread, stage, pieces)
    start = _restore(saved, stage, optimizer, alarm, best, given) if saved.exists() else 0
    whole = Batches(windows, size=pace.batch, seed=pace.seed)
    share = Share(windows, size=pace.batch, seed=pace.seed, rank=spread.global_rank, world=spread.world_size)
    journal = (
        ProgressLog(folder, stage.name, start=start, steps=pace.steps, held_out=not seen, board=board)
        if chief
        else None
    )
    with journal or nullcontext():
        for step, batch in enumerate(share.iterate(start, pace.steps), start):
            for group in optimizer.param_groups:
                group["lr"] = pace.learning_rate * schedule(step, pace.steps)
            with torch.no_grad(), spread.autocast():
                inputs = stage.inputs(batch, spread.device)
            total, values = _losses(spread, network(*inputs))
            _check(values["loss"], f"the loss of stage {stage.name}", step, whole)
            tuned.zero_grad(set_to_none=True)
            spread.backward(total)
            norm = spread.clip_gradients(network, tuned, max_norm=_CLIP_NORM, error_if_nonfinite=False)
            _check(float(norm), f"the gradient of stage {stage.name}", step, whole)
            tuned.step()
            if journal:
                journal.losses(step, values)
            if (step + 1) % pace.watch_every == 0 or step + 1 == pace.steps:
                found, values = _look(spread, stage, pieces)
                _check(values["loss"], f"the held-out loss of stage {stage.name}", step, whole)
                if not seen:
                    best.see(values["loss"], stage)
                if journal:
                    journal.look(step, found, values, best.loss)
                if (warning := alarm.see(found, step)) and chief:
                    _LOG.warning("stage %s, %s", stage.name, warning)
            if journal and ((step + 1) % pace.checkpoint_every == 0 or step + 1 == pace.steps):
                journal.flush()
                save(
                    {
                        "step": step + 1,
                        "network": stage.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "alarms": alarm.count,
                        "best": vars(best),
                        "given": given,
                    },
                    saved,
                )
    if best.network:
        stage.load_state_dict(best.network)
    spread.barrier()


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate: linear warm-up over 100 steps (a tenth of a shorter stage), then cosine
    to 1 %."""
    warmth = min(1.0, (step + 1) / max(1, min(_WARM_UP, steps // 10)))
    return warmth * (0.505 + 0.495 * math.cos(math.pi * step / steps))


def _losses(spread: Fabric, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The sum of the terms of a loss; it and them as numbers, of all processes."""
    total = torch.stack(list(terms.values())).sum()
    own = torch.stack([total, *terms.values()]).detach()
    means = spread.all_reduce(own, reduce_op="mean").tolist()
    return total, dict(zip(("loss", *terms), means, strict=True))


def _pieces(clips: Batch, size: int) -> list[Batch]:
    return [
        Batch(*(None if part is None else part[first : first + size] for part in vars(clips).values()))
        for first in range(0, len(clips.frames), size)
    ]


def _look(spread: Fabric, stage: Stage, pieces: Sequence[Batch]) -> tuple[Variety, dict[str, float]]:
    """How varied latents of these clips are, and their losses."""
    latents: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    count = sum(len(piece.frames) for piece in pieces)
    with torch.no_grad(), spread.autocast():
        for piece in pieces:
            inputs = stage.inputs(piece, spread.device)
            latents.append(stage.watched(*inputs))
            for name, mean in stage(*inputs).items():
                terms[name] = terms.get(name, torch.zeros_like(mean)) + mean * (len(piece.frames) / count)
    return variety(torch.cat(latents)), _losses(spread, terms)[1]


def _given(spread: Fabric, stage: Stage, pieces: Sequence[Batch]) -> dict[str, Tensor]:
    """Some numbers of each input of the stage. They tell what settings do not: another teacher, or another
    way to prepare frames, compute targets or scale actions."""
    with torch.no_grad(), spread.autocast():
        inputs = [[part.cpu() for part in stage.inputs(piece, spread.device)] for piece in pieces]
    places = torch.Generator().manual_seed(0)
    whole = [torch.cat(parts).flatten() for parts in zip(*inputs, strict=True)]
    return {
        name: values[torch.randint(len(values), (_REMEMBERED,), generator=places)].float()
        for name, values in zip(stage.reads, whole, strict=True)
    }


def _restore(
    path: Path,
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    alarm: Alarm,
    best: Best,
    given: dict[str, Tensor],
) -> int:
    """Take back a checkpoint; returns the next step."""
    state = load(path)
    try:
        stage.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        alarm.count = int(state["alarms"])
        best.loss, best.network = float(state["best"]["loss"]), state["best"]["network"]
        apart = {name: float((values - state["given"][name]).norm()) for name, values in given.items()}
        step = int(state["step"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise JepaExportError(
            f"{path} is of other settings or another version of jepa-edge ({str(error).splitlines()[0]}): "
            "choose another --out, or remove it"
        ) from error
    for name, values in given.items():
        if not apart[name] <= _ROUNDING * float(values.norm()):
            raise JepaExportError(
                f"{path}: the {name} of this stage are no longer those that it began with, so that it would "
                "learn half from each: go on with the version of jepa-edge that began it, choose another "
                "--out, or remove the folder to start over"
            )
    return step


def _check(value: float, what: str, step: int, batches: Batches) -> None:
    if not math.isfinite(value):
        clips = batches.indices(step)
        shown = ", ".join(str(clip) for clip in clips[:8]) + (", …" if len(clips) > 8 else "")
        raise JepaExportError(
            f"{what} is {value} at step {step} (its batch: clips {shown}), and would be again: look at the "
            "actions of these clips, and lower --learning-rate, in another --out"
        )
