"""The masked stage: an encoder learns to predict the latents of hidden tokens of clips.

The targets are the latents that a moving average of the encoder computes from the whole clip (V-JEPA: Bardes
et al. 2024, "Revisiting feature prediction for learning visual representations from video"). Only the slow
average prevents that all latents become equal, which the loss would reward. So their variation over held-out
clips is evaluated, and training ends when it is gone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.distillation.collapse import LatentStatistics, latent_statistics
from jepa_export.errors import JepaExportError
from jepa_export.training.progress_log import HELD_OUT, ProgressLog
from jepa_recipes.first_person.clip_networks import ClipEncoder, MaskedPredictor, in_clip, take_tokens
from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.masks import Masks, sample_masks
from jepa_recipes.first_person.networks import TOKENS, FrameEncoder
from jepa_recipes.first_person.stage import DriveStage, StageSettings
from jepa_sim.worlds.interface import Image

_MOMENTUM = 0.996
# In every fourth step frames are clips of their own, as the encoder is used afterwards.
_SINGLE_FRAMES_EVERY = 4
_EVALUATED_DRIVES = 4
# Other streams of the seed sample the libraries and the batches of the other stages.
_STREAM = 6


@dataclass(frozen=True)
class MaskedBatch:
    """Clips uint8 [N, F, height, width, 3], and which of their tokens are hidden."""

    clips: Image
    masks: Masks


def draw_masked_batch(
    library: DriveLibrary, shape: ClipShape, rng: np.random.Generator, *, single: bool, augment: bool = True
) -> MaskedBatch:
    """Return random clips.

    Args:
        library: The drives.
        shape: Number of drives and frames.
        rng: Random numbers.
        single: Whether each frame is a clip of its own.
        augment: See :func:`~jepa_recipes.first_person.clips.sample_clips`.
    """
    clips = sample_clips(library, shape, rng, augment=augment).images
    if single:
        clips = clips.reshape(-1, 1, *clips.shape[2:])
    return MaskedBatch(clips, sample_masks(len(clips), rng))


class MaskedStage(DriveStage[MaskedBatch]):
    """Training on masked clips.

    Args:
        encoder: The frame encoder to train.
        settings: What the run gives to the stage; all drives of a batch have consecutive frames.

    Attributes:
        target: Moving average of the encoder.
    """

    tables = (HELD_OUT,)

    def __init__(self, encoder: FrameEncoder, settings: StageSettings) -> None:
        self.encoder, self.predictor = ClipEncoder(encoder), MaskedPredictor(encoder.dim)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__("masked", {"encoder": self.encoder, "predictor": self.predictor}, settings)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)

    def draw(self, step: int) -> MaskedBatch:
        rng = np.random.default_rng((self.settings.seed, _STREAM, step))
        single = step % _SINGLE_FRAMES_EVERY == _SINGLE_FRAMES_EVERY - 1
        return draw_masked_batch(self.settings.library, self.settings.amount.clips, rng, single=single)

    def losses(self, step: int) -> dict[str, Tensor]:
        with self.autocast():
            predicted, targets, _ = self._predict(self.batch(step))
        return {"masked": functional.l1_loss(predicted, targets)}

    def after_step(self, step: int, log: ProgressLog | None) -> None:
        # At first the average is over as many steps as there were.
        momentum = min(_MOMENTUM, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, weights in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                average.lerp_(weights, 1 - momentum)
        super().after_step(step, log)

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return the row of the table ``held_out``.

        Its columns are the loss, what the loss would be if the mean latent of each token were predicted, and
        the rank and standard deviation of :class:`~jepa_export.distillation.collapse.LatentStatistics`.

        Raises:
            JepaExportError: The latents collapsed.
        """
        rng = np.random.default_rng(0)
        shape = ClipShape(
            drives=_EVALUATED_DRIVES,
            frames=self.settings.amount.clips.frames,
            turned=0,
            consecutive=_EVALUATED_DRIVES,
        )
        losses, clips = list[Tensor](), list[Tensor]()
        for _ in range(self.settings.amount.evaluation_batches):
            batch = draw_masked_batch(self.settings.held_out, shape, rng, single=False, augment=False)
            predicted, targets, latents = self._predict(batch)
            losses.append(functional.l1_loss(predicted, targets))
            clips.append(latents)
        every = torch.cat(clips)
        statistics = latent_statistics(every[:, :TOKENS])
        self._check(statistics)
        row = {
            "loss": float(torch.stack(losses).mean()),
            "mean_predicted": float((every - every.mean(0)).abs().mean()),
            "rank": statistics.rank,
            "std": statistics.std,
        }
        return {HELD_OUT: row}

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {"target": self.target.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.target.load_state_dict(state["target"])

    def _predict(self, batch: MaskedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the predicted and the true latents of hidden tokens, and the true ones of all tokens."""
        clips = torch.from_numpy(batch.clips)
        visible, hidden = torch.from_numpy(batch.masks.visible), torch.from_numpy(batch.masks.hidden)
        with torch.no_grad():
            latents = functional.layer_norm(self.target(clips), (self.encoder.frame.dim,))
        predicted = self.predictor(self.encoder(clips, visible), visible, hidden)
        return predicted, take_tokens(latents, in_clip(hidden, clips.shape[1])), latents

    def _check(self, statistics: LatentStatistics) -> None:
        if statistics.collapsed:
            raise JepaExportError(
                f"stage {self.name}: the latents of held-out clips collapsed: {statistics.describe()}; the "
                "targets do not distinguish images any more: lower the learning rate, or use more drives",
                code="training.collapse",
            )
