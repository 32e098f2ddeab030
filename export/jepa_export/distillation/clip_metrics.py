"""How well a student predicts on clips, what it kept of its teacher, and clips on which to calibrate it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_export.data.batches import Batch, Batches
from jepa_export.data.clip_windows import Windows
from jepa_export.distillation.data_split import DataSplit
from jepa_export.distillation.stages import EncoderStage, PredictorStage
from jepa_export.training.world_metrics import FALSE_ALARMS, QUANTILE

_LOG = logging.getLogger(__name__)
MEASURED_CLIPS = 256
# A large teacher looks at each.
COMPARED_CLIPS = 64
CALIBRATION_FRAMES = 64
_SEED, _TINY = 0, 1e-12


@dataclass(frozen=True)
class ClipMetrics:
    """Lists run over prediction steps 1 … H, over ``clips`` clips.

    ``rmse``: of predicted against encoded latents; ``copy_last_rmse``: the same for a model that says nothing
    changes; ``error_bounds``: the 90 % quantile of the norm of the difference; ``surprise_threshold``: the
    one-step root mean squared error that 0.1 % of clips exceed; ``goal_threshold``: half the mean squared
    difference that a step makes (median)."""

    clips: int
    rmse: list[float]
    copy_last_rmse: list[float]
    error_bounds: list[float]
    surprise_threshold: float
    goal_threshold: float

    def tell(self, which: str, progress: Callable[[str], None]) -> None:
        """Say how far off predictions are in clips ``which``, and warn where they are in vain."""
        pairs = zip(self.rmse, self.copy_last_rmse, strict=True)
        shares = [error / max(change, _TINY) for error, change in pairs]
        progress(
            f"in {self.clips} clips {which}, predictions are {shares[0]:.2f} x as far off as if nothing "
            f"moved, {len(shares)} steps ahead {shares[-1]:.2f} x"
        )
        if vain := sum(share >= 1 for share in shares):
            _LOG.warning(
                "it foresees no more than that nothing moves at %d of %d steps: train the predictor longer "
                "(--predictor-steps), and see whether actions and --rate are right",
                vain,
                len(shares),
            )


@torch.no_grad()
def kept(stage: EncoderStage, pair: DataSplit, teacher: str) -> TeacherRetention:
    """Compare what ``stage`` tells with what its ``teacher`` (by this name) sees, in all clips that are held
    out, or in :data:`COMPARED_CLIPS`.

    Raises:
        JepaExportError: a frame cannot be read.
    """
    device = next(stage.parameters()).device
    clips = min(COMPARED_CLIPS, len(pair.held_out))
    cosines, total, squares, missed = [], 0.0, 0.0, 0.0
    for batch in Batches(pair.held_out, size=1, seed=_SEED).iterate(0, clips):
        frames, targets = stage.inputs(batch, device)
        told = stage.head(stage.encoder(frames)).float()
        cosines.append(functional.cosine_similarity(told, targets, dim=-1).mean().item())
        total = total + targets.double()
        squares += targets.double().pow(2).sum().item()
        missed += (told - targets).double().pow(2).sum().item()
    varies = squares - (total / clips).pow(2).sum().item() * clips
    return TeacherRetention(
        teacher=teacher,
        clips=clips,
        held_out=pair.held_out is not pair.train,
        variance=1 - missed / varies if varies > _TINY * squares else None,
        cosine=sum(cosines) / clips,
    )


@torch.no_grad()
def measure(stage: PredictorStage, windows: Windows) -> ClipMetrics:
    """Roll ``stage`` out over clips of ``windows``, all where there are no more than
    :data:`MEASURED_CLIPS`.

    Raises:
        JepaExportError: a frame cannot be read.
    """
    device = next(stage.parameters()).device
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
        error_bounds=error.sqrt().quantile(QUANTILE, dim=0).tolist(),
        surprise_threshold=float((error[:, 0] / size).sqrt().quantile(1 - FALSE_ALARMS)),
        goal_threshold=float(change[:, 0].median() / size / 2),
    )


def some_clips(windows: Windows, count: int) -> Batch:
    """``count`` clips from anywhere, the same each time, or all where there are fewer."""
    return Batches(windows, size=min(count, len(windows)), seed=_SEED).batch(0)


def calibration_clips(windows: Windows) -> NDArray[np.uint8]:
    """Some clips of T frames, uint8 [C, T, px, px, 3]."""
    length = len(windows[0].stamps_ns)
    return some_clips(windows, -(-CALIBRATION_FRAMES // length)).frames


def _squares(difference: Tensor) -> Tensor:
    return difference.pow(2).flatten(2).sum(-1).float().cpu()
