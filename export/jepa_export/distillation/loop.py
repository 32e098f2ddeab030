"""The loop of a stage, the same in one process and in many: Lightning Fabric spreads it.

A step follows from the weights, the optimiser's state and the step's number alone: a run that was killed goes
on with the losses that would have come. Losses, clips and checkpoints are of the whole batch, whatever share
of it a process has."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from jepa_export.checkpoint import load, save
from jepa_export.data.batches import Batch, Batches
from jepa_export.data.windows import Windows
from jepa_export.distillation.collapse import Alarm, variety
from jepa_export.distillation.journal import Journal
from jepa_export.distillation.stages import Stage
from jepa_export.errors import JepaExportError

_LOG = logging.getLogger(__name__)
_WARM_UP, _CLIP_NORM, _WEIGHT_DECAY = 100, 1.0, 0.05


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
    spread: Fabric, stage: Stage, windows: Windows, held_out: Batch, folder: Path, pace: Pace, *, board: bool
) -> None:
    """Train ``stage`` to its end, going on from ``folder``/<name>.pt where that is; <name>.csv holds the
    losses of each step.

    Args:
        held_out: in which collapse is looked for.
        board: write TensorBoard events too.

    Raises:
        JepaExportError: the loss is no number, latents collapsed, a frame cannot be read, or the disk is
            full.
    """
    optimizer = torch.optim.AdamW(stage.parameters(), pace.learning_rate, weight_decay=_WEIGHT_DECAY)
    network, tuned = spread.setup(stage, optimizer)
    saved, chief = folder / f"{stage.name}.pt", spread.is_global_zero
    start, alarms = _restore(saved, stage, optimizer) if saved.exists() else (0, 0)
    alarm = Alarm(pace.alarms, alarms)
    whole = Batches(windows, size=pace.batch, seed=pace.seed)
    share = Share(windows, size=pace.batch, seed=pace.seed, rank=spread.global_rank, world=spread.world_size)
    with _journal(folder if chief else None, stage.name, start, pace.steps, board=board) as journal:
        for step, batch in enumerate(share.iterate(start, pace.steps), start):
            for group in optimizer.param_groups:
                group["lr"] = pace.learning_rate * schedule(step, pace.steps)
            with torch.no_grad(), spread.autocast():
                inputs = stage.inputs(batch, spread.device)
            terms = network(*inputs)
            total = torch.stack(list(terms.values())).sum()
            own = torch.stack([total, *terms.values()]).detach()
            values = dict(
                zip(("loss", *terms), spread.all_reduce(own, reduce_op="mean").tolist(), strict=True)
            )
            _check(values["loss"], f"the loss of stage {stage.name}", step, whole)
            tuned.zero_grad(set_to_none=True)
            spread.backward(total)
            norm = spread.clip_gradients(network, tuned, max_norm=_CLIP_NORM, error_if_nonfinite=False)
            _check(float(norm), f"the gradient of stage {stage.name}", step, whole)
            tuned.step()
            if journal:
                journal.losses(step, values)
            if (step + 1) % pace.watch_every == 0 or step + 1 == pace.steps:
                with torch.no_grad(), spread.autocast():
                    found = variety(stage.watched(held_out, spread.device))
                if journal:
                    journal.variety(step, found)
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
                    },
                    saved,
                )
    spread.barrier()


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate: linear warm-up over 100 steps (a tenth of a shorter stage), then cosine
    to 1 %."""
    warmth = min(1.0, (step + 1) / max(1, min(_WARM_UP, steps // 10)))
    return warmth * (0.505 + 0.495 * math.cos(math.pi * step / steps))


@contextmanager
def _journal(
    folder: Path | None, name: str, start: int, steps: int, *, board: bool
) -> Iterator[Journal | None]:
    if folder is None:
        yield None
        return
    with Journal(folder, name, start=start, steps=steps, board=board) as journal:
        yield journal


def _restore(path: Path, stage: Stage, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """The next step, and the alarms in a row before it."""
    state = load(path)
    try:
        stage.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), int(state["alarms"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise JepaExportError(
            f"{path} is of other settings ({str(error).splitlines()[0]}): choose another --out, or remove it"
        ) from error


def _check(value: float, what: str, step: int, batches: Batches) -> None:
    if not math.isfinite(value):
        clips = batches.indices(step)
        shown = ", ".join(str(clip) for clip in clips[:8]) + (", …" if len(clips) > 8 else "")
        raise JepaExportError(
            f"{what} is {value} at step {step} (its batch: clips {shown}): lower --learning-rate, and look "
            "at the actions of these clips; the same command goes on from the last checkpoint"
        )
