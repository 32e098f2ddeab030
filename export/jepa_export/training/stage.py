"""The one training loop: train a stage to its end, log its losses, and resume from its last checkpoint.

A resumed run repeats the losses that an uninterrupted run would have had: each step follows from the state in
the checkpoint and the number of the step alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import load, save
from jepa_export.training.progress_log import ProgressLog

WARMUP_STEPS = 100


class TrainingStage(ABC):
    """Parameters, an optimizer, and a loss for each step.

    Attributes:
        name: Name of the stage and of its files.
        network: Module whose gradients are clipped.
        optimizer: Optimizer of the parameters. The learning rate of a group is multiplied by its
            ``lr_factor``, if it has one.
        fabric: Processes and precision that the stage is trained with.
        tables: Names of the evaluation tables that :meth:`after_step` writes.
    """

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    tables: tuple[str, ...] = ()

    def __init__(
        self, fabric: Fabric, *, steps: int, learning_rate: float, clip_norm: float, warmup_steps: int
    ) -> None:
        self.fabric, self.steps = fabric, steps
        self._learning_rate, self._clip_norm, self._warmup_steps = learning_rate, clip_norm, warmup_steps

    @abstractmethod
    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the weighted terms of the loss at ``step``; their sum is minimized."""

    @abstractmethod
    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the state from which training continues with ``step``."""

    @abstractmethod
    def restore(self, state: dict[str, Any], source: Path) -> int:
        """Restore a checkpoint that was read from ``source`` and return the next step.

        Raises:
            JepaExportError: The checkpoint belongs to a run with other settings.
        """

    def after_step(self, step: int, log: ProgressLog | None) -> None:
        """Evaluate the network after ``step`` if due; ``log`` is None in all but one process."""
        del step, log

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        return self._learning_rate * warmup(step, self._warmup_steps) * cosine_decay(step, self.steps)

    def failure_advice(self, step: int) -> str:
        """Return what to do after the loss of ``step`` was not finite."""
        del step
        return "lower the learning rate"

    def train_step(self, step: int) -> dict[str, float]:
        """Update the parameters once and return the loss and its terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step) * group.get("lr_factor", 1.0)
        total, values = self.reduce(self.losses(step))
        self.check_finite(values["loss"], "the loss", step)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        norm = self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=self._clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        self.check_finite(float(norm), "the gradient", step)
        self.optimizer.step()
        return values

    def reduce(self, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of the terms of a loss, and it and the terms as means over all processes."""
        total = torch.stack(list(terms.values())).sum()
        own = torch.stack([total, *terms.values()]).detach()
        means = self.fabric.all_reduce(own, reduce_op="mean")
        assert isinstance(means, Tensor)
        return total, dict(zip(("loss", *terms), means.tolist(), strict=True))

    def check_finite(self, value: float, what: str, step: int) -> None:
        """Check that ``value`` is a finite number.

        Raises:
            JepaExportError: It is not.
        """
        if not math.isfinite(value):
            raise JepaExportError(
                f"stage {self.name}: {what} is {value} at step {step}; {self.failure_advice(step)}",
                code="training.not_finite",
            )


class ModuleStage(TrainingStage):
    """Stage of a few modules on the CPU that draws its batches itself, from torch's global generator.

    Args:
        modules: Modules to train, by their names in the checkpoint.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        *,
        steps: int,
        learning_rate: float,
        clip_norm: float,
        warmup_steps: int = WARMUP_STEPS,
    ) -> None:
        super().__init__(
            Fabric(accelerator="cpu", devices=1),
            steps=steps,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
            warmup_steps=warmup_steps,
        )
        self.network = self.modules = nn.ModuleDict(modules)
        self.optimizer = self.create_optimizer()

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of :attr:`modules`."""
        return torch.optim.AdamW(self.modules.parameters(), self._learning_rate, weight_decay=1e-4)

    def extra_state(self) -> dict[str, Any]:
        """Return further state that the next step depends on."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` returned."""
        del state

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
        if state["steps"] != self.steps:
            raise JepaExportError(
                f"{source}: written by a run of {state['steps']} steps, this run has {self.steps}; resume "
                "with "
                "the same settings or choose another --output",
                code="training.settings_mismatch",
            )
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.load_extra_state(state["extra"])
        return int(state["step"])


def run_stage(
    stage: TrainingStage, folder: Path, *, checkpoint_every: int = 100, tensorboard: bool = False
) -> None:
    """Train ``stage`` to its end, resuming from ``folder``/<name>.pt if it exists.

    ``folder``/<name>.csv holds the losses, one row per step.

    Args:
        stage: The stage.
        folder: Folder of the run.
        checkpoint_every: Steps between two checkpoints.
        tensorboard: Also write TensorBoard events.

    Raises:
        JepaExportError: The loss is not finite, a file cannot be read or written, or the checkpoint belongs
            to a run with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / f"{stage.name}.pt"
    start = stage.restore(load(saved), saved) if saved.exists() else 0
    log = None
    if stage.fabric.is_global_zero:
        log = ProgressLog(
            folder, stage.name, start=start, steps=stage.steps, tables=stage.tables, tensorboard=tensorboard
        )
    with log or nullcontext():
        for step in range(start, stage.steps):
            values = stage.train_step(step)
            if log:
                log.log_losses(step, values)
            stage.after_step(step, log)
            if log and ((step + 1) % checkpoint_every == 0 or step + 1 == stage.steps):
                log.flush()
                save(stage.checkpoint(step + 1), saved)


def warmup(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a linear warm-up over ``steps`` steps."""
    return min(1.0, (step + 1) / max(1, steps))


def cosine_decay(step: int, steps: int) -> float:
    """Return the factor of the learning rate: a cosine from 1 to 0.01 over ``steps`` steps."""
    return 0.505 + 0.495 * math.cos(math.pi * step / steps)


def linear_decay(step: int, start: int, steps: int) -> float:
    """Return the factor of the learning rate: 1 up to ``start``, then a line to 0.02 at ``steps``."""
    return 1.0 if step < start else max(0.02, (steps - step) / (steps - start))
