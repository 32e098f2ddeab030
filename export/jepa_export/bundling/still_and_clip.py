"""Comparison of still frames, as the bundle of a teacher encodes them, with clips, which it was trained on.

A still has no direction of motion: its latent is the same after a clip and after a reversed clip that ends in
the same frame. The difference of the latents of these two clips is the direction of motion that stills lose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from jepa_export.bundling.task_progress import Begin, track
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2

# Each is encoded forward and reversed.
CLIPS = 4


@dataclass(frozen=True)
class StillAndClip:
    """Mean cosines of the tokens of one step, over ``clips`` clips of ``frames`` frames.

    Attributes:
        clips: Number of clips.
        frames: Frames in each.
        trained: Whether the weights are trained; those of random weights mean nothing.
        still_and_clip: Between the still of the last step and the last step of the clip.
        clip_and_reverse: Between the last steps of the clip and of the reverse that ends in the same frame; 1
            for stills.
        consecutive_stills: Between the stills of the last step and of the following one, for comparison.
    """

    clips: int
    frames: int
    trained: bool
    still_and_clip: float
    clip_and_reverse: float
    consecutive_stills: float

    def report(self, progress: Callable[[str], None]) -> None:
        """Report it in one line."""
        progress(
            f"mean cosine of still frames and clips of {self.frames} frames: {self.still_and_clip:.3f}; of "
            f"clips and their reverse: {self.clip_and_reverse:.3f} (stills: 1); of consecutive stills: "
            f"{self.consecutive_stills:.3f}" + ("" if self.trained else " (random weights: means nothing)")
        )

    def as_report(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        return {"still_and_clip": asdict(self)}


def steps_needed(history_size: int) -> int:
    """Return the number of steps that the comparison reads at least: a clip, and its reverse after it."""
    return 2 * history_size


def compare_still_and_clip(
    model: VJEPA2, frames: Tensor, stills: Tensor, history_size: int, *, trained: bool, begin: Begin
) -> StillAndClip:
    """Encode clips and compare their last step with that of their reverse and with the still of that step.

    Args:
        model: Model in evaluation mode.
        frames: uint8 [n * tubelet, height, width, 3], ``tubelet`` for each step.
        stills: Latents [n, T, D] of the last frame of each step, encoded as a still.
        history_size: Steps of a clip; n is at least :func:`steps_needed`.
        trained: Whether the weights are trained.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.
    """
    tubelet, tokens = model.config.encoder.tubelet, stills.shape[1]
    length = history_size * tubelet
    last_start = len(stills) - steps_needed(history_size)
    starts = torch.linspace(0, last_start, CLIPS).round().int().unique().tolist()
    found = []
    for start in track(starts, "encoding clips", begin):
        end = start * tubelet + length
        clip, after = frames[end - length : end], frames[end - 1 : end - 1 + length]
        forward, reverse = (
            model(normalize(each.float())[None])[0, -tokens:] for each in (clip, after.flip(0))
        )
        still, following = stills[start + history_size - 1 : start + history_size + 1]
        pairs = (still, forward), (forward, reverse), (still, following)
        found.append([float(cosine_similarity(*pair, dim=-1).mean()) for pair in pairs])
    return StillAndClip(len(starts), length, trained, *torch.tensor(found).mean(0).tolist())
