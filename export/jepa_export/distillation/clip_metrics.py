"""Prediction accuracy of a student on clips, its retention of the teacher, and calibration clips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.bundling.manifest_fields import ERROR_QUANTILE, FALSE_ALARM_RATE
from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_export.data.batches import Batch, Batches
from jepa_export.data.clip_windows import Windows
from jepa_export.distillation.data_split import DataSplit
from jepa_export.distillation.stages import EncoderStage

_LOG = logging.getLogger(__name__)
MEASURED_CLIPS = 256
# A large teacher encodes each of them.
COMPARED_CLIPS = 64
CALIBRATION_FRAMES = 64
_SEED, _TINY = 0, 1e-12


@dataclass(frozen=True)
class ClipMetrics:
    """Prediction accuracy over ``clips`` clips; lists are over prediction steps 1 … H.

    Attributes:
        rmse: Root mean squared error of predicted against encoded latents.
        copy_last_rmse: The same for a model that predicts no change.
        error_bounds: 90 % quantile of the norm of the error.
        surprise_threshold: One-step root mean squared error that 0.1 % of clips exceed.
        goal_threshold: Half the mean squared change of a latent in one step (median).
    """

    clips: int
    rmse: list[float]
    copy_last_rmse: list[float]
    error_bounds: list[float]
    surprise_threshold: float
    goal_threshold: float

    def report(self, which: str, progress: Callable[[str], None]) -> None:
        """Report the error relative to predicting no change, in ``which`` clips; warn if it is no better."""
        pairs = zip(self.rmse, self.copy_last_rmse, strict=True)
        ratios = [error / max(change, _TINY) for error, change in pairs]
        progress(
            f"prediction error on {self.clips} {which} clips, relative to predicting no change: "
            f"{ratios[0]:.2f} at step 1, {ratios[-1]:.2f} at step {len(ratios)}"
        )
        if useless := sum(ratio >= 1 for ratio in ratios):
            _LOG.warning(
                "predictions are no better than predicting no change at %d of %d steps: train the predictor "
                "longer, and check the actions and the duration of a step",
                useless,
                len(ratios),
            )


class ClipPredictor(Protocol):
    """A network that predicts the latents of a clip, such as a ``PredictorStage``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters; clips are moved to their device."""
        ...

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the latents [B, T, tokens, D] and the actions [B, T, A] of clips."""
        ...

    def roll_out(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predict the last frames of the clips from the first ones and the actions: [B, H, tokens, D]."""
        ...


@torch.no_grad()
def measure_retention(stage: EncoderStage, split: DataSplit, teacher: str) -> TeacherRetention:
    """Compare the tokens that ``stage`` reconstructs with those of ``teacher`` (its name).

    All held-out clips are used, up to :data:`COMPARED_CLIPS`.

    Raises:
        JepaExportError: A frame cannot be read.
    """
    device = next((each.device for each in stage.parameters()), torch.device("cpu"))
    clips = min(COMPARED_CLIPS, len(split.held_out))
    cosines, squares, missed = [], 0.0, 0.0
    total = torch.zeros((), dtype=torch.float64)
    for batch in Batches(split.held_out, size=1, seed=_SEED).iterate(0, clips):
        frames, targets = stage.inputs(batch, device)
        reconstructed = stage.head(stage.encoder(frames)).float()
        cosines.append(functional.cosine_similarity(reconstructed, targets, dim=-1).mean().item())
        total = total + targets.double()
        squares += targets.double().pow(2).sum().item()
        missed += (reconstructed - targets).double().pow(2).sum().item()
    variation = squares - (total / clips).pow(2).sum().item() * clips
    return TeacherRetention(
        teacher=teacher,
        clips=clips,
        held_out=split.held_out is not split.train,
        variance=1 - missed / variation if variation > _TINY * squares else None,
        cosine=sum(cosines) / clips,
    )


@torch.no_grad()
def measure(stage: ClipPredictor, windows: Windows) -> ClipMetrics:
    """Evaluate the predictions of ``stage`` on clips of ``windows``, up to :data:`MEASURED_CLIPS`.

    Raises:
        JepaExportError: A frame cannot be read.
    """
    device = next((each.device for each in stage.parameters()), torch.device("cpu"))
    batches = Batches(windows, size=1, seed=_SEED)
    errors, changes = [], []
    for batch in batches.iterate(0, min(MEASURED_CLIPS, len(windows))):
        latents, actions = stage.inputs(batch, device)
        futures = stage.roll_out(latents, actions)
        arrived, newest = latents[:, -futures.shape[1] :], latents[:, -futures.shape[1] - 1]
        errors.append(_squares(futures - arrived))
        changes.append(_squares(newest[:, None] - arrived))
    error, change = torch.cat(errors), torch.cat(changes)
    size = latents[0, 0].numel()
    return ClipMetrics(
        clips=len(error),
        rmse=(error.mean(0) / size).sqrt().tolist(),
        copy_last_rmse=(change.mean(0) / size).sqrt().tolist(),
        error_bounds=error.sqrt().quantile(ERROR_QUANTILE, dim=0).tolist(),
        surprise_threshold=float((error[:, 0] / size).sqrt().quantile(1 - FALSE_ALARM_RATE)),
        goal_threshold=float(change[:, 0].median() / size / 2),
    )


def some_clips(windows: Windows, count: int) -> Batch:
    """Return ``count`` clips sampled with a fixed seed, or all clips if there are fewer."""
    return Batches(windows, size=min(count, len(windows)), seed=_SEED).batch(0)


def calibration_clips(windows: Windows) -> NDArray[np.uint8]:
    """Return a sample of clips of T frames, uint8 [C, T, px, px, 3]."""
    length = len(windows[0].stamps_ns)
    return some_clips(windows, -(-CALIBRATION_FRAMES // length)).frames


def _squares(difference: Tensor) -> Tensor:
    return difference.pow(2).flatten(2).sum(-1).float().cpu()
