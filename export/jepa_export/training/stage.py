"""Running a training stage: progress bar, losses on disk, checkpoints, and a resume that repeats the same
losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import load, save
from jepa_export.training.loss_table import Table, progress_bar, told


class Stage(ABC):
    """One stage: parameters, an optimiser, and a loss for step i that follows from (seed, i) and the state
    alone.
    """

    name: str

    def __init__(
        self, modules: dict[str, nn.Module], *, steps: int, learning_rate: float, clip_norm: float
    ) -> None:
        self.modules = nn.ModuleDict(modules)
        self.steps = steps
        self._learning_rate, self._clip_norm = learning_rate, clip_norm
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), learning_rate, weight_decay=1e-4)

    @abstractmethod
    def losses(self, step: int) -> dict[str, Tensor]:
        """The terms of the loss at ``step``, weighted; their sum is minimised."""

    def extra_state(self) -> dict[str, Any]:
        """What else the next step depends on."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` gave."""
        del state

    def train_step(self, step: int) -> dict[str, float]:
        """One update; linear warm-up over 100 steps, then cosine to 1 % of the learning rate."""
        warmth = min(1.0, (step + 1) / 100)
        cosine = 0.505 + 0.495 * math.cos(math.pi * step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate * warmth * cosine
        terms = self.losses(step)
        total = torch.stack(list(terms.values())).sum()
        self._check(total, "loss", step)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), self._clip_norm)
        self._check(norm, "gradient", step)
        self.optimizer.step()
        return {"loss": total.item()} | {key: value.item() for key, value in terms.items()}

    def _check(self, value: Tensor, what: str, step: int) -> None:
        if not torch.isfinite(value):
            raise JepaExportError(
                f"stage {self.name}: the {what} is {value.item()} at step {step}; lower the learning rate"
            )

    def checkpoint(self, step: int) -> dict[str, Any]:
        return {
            "stage": self.name,
            "step": step,
            "steps": self.steps,
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "extra": self.extra_state(),
        }

    def restore(self, state: dict[str, Any], source: Path) -> int:
        """Take back a checkpoint; returns the next step."""
        if state["steps"] != self.steps:
            raise JepaExportError(
                f"{source} was written by a run of {state['steps']} steps, this one has {self.steps}: "
                "resume with the same settings, or choose another --out"
            )
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.load_extra_state(state["extra"])
        return int(state["step"])


def run_stage(stage: Stage, folder: Path, *, every: int = 100) -> None:
    """Train ``stage`` to its end, resuming from ``folder``/<name>.pt where that exists.

    ``folder``/<name>.csv holds the losses, one row per step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved, log = folder / f"{stage.name}.pt", folder / f"{stage.name}.csv"
    start = stage.restore(load(saved), saved) if saved.exists() else 0
    with closing(Table(log, start)) as table, progress_bar() as progress:
        task = progress.add_task(stage.name, total=stage.steps, completed=start, losses="")
        for step in range(start, stage.steps):
            values = stage.train_step(step)
            table.write(step, values)
            progress.update(task, advance=1, losses=told(values))
            if (step + 1) % every == 0 or step + 1 == stage.steps:
                table.flush()
                save(stage.checkpoint(step + 1), saved)
