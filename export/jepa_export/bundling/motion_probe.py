"""How well a linear probe reads the direction of motion from the latents of clips, and from those of stills.

A window moves across a recorded image in one of four directions and ends in its center, so all four clips of
an image end in the same frame: a still cannot tell them apart, and its accuracy is that of chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot

from jepa_export.bundling.task_progress import Begin, track

IMAGES = 16
"""Images that the windows move across; the probe is fitted on every other one, and measured on the rest."""
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
# Side of the window, and the length of its path, as fractions of the image.
_SIDE, _PATH = 0.75, 0.125
_RIDGE = 1e-2


@dataclass(frozen=True)
class MotionProbe:
    """Accuracy of the probe on images that it was not fitted on.

    Attributes:
        images: Number of images, half of which are held out.
        frames: Frames in each clip.
        trained: Whether the weights are trained; accuracies of random weights say nothing about trained ones.
        chance: Accuracy of guessing.
        still_accuracy: Accuracy from the latents of the last frames, encoded as stills.
        clip_accuracy: Accuracy from the latents of the clips.
        causal_accuracy: Accuracy from the latents of the clips by a causal encoder; None: there is none.
    """

    images: int
    frames: int
    trained: bool
    chance: float
    still_accuracy: float
    clip_accuracy: float
    causal_accuracy: float | None = None

    def report(self, progress: Callable[[str], None]) -> None:
        """Report it in one line."""
        causal = "" if self.causal_accuracy is None else f"{self.causal_accuracy:.0%} of causal clips, "
        progress(
            f"direction of motion read by a linear probe: {self.clip_accuracy:.0%} of clips of {self.frames} "
            f"frames, {causal}{self.still_accuracy:.0%} of stills (chance: {self.chance:.0%})"
            + ("" if self.trained else " (random weights)")
        )

    def as_report(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        measured = {name: value for name, value in asdict(self).items() if value is not None}
        return {"motion_probe": measured}


def probe_motion(
    still: nn.Module,
    clip: nn.Module,
    images: Tensor,
    frames: int,
    *,
    trained: bool,
    begin: Begin,
    causal: nn.Module | None = None,
) -> MotionProbe:
    """Encode moving windows, fit the probe, and measure it.

    Args:
        still: The encoder of one frame, uint8 [1, h, w, 3] -> [1, T, D].
        clip: The encoder of a clip, uint8 [frames, h, w, 3] -> [1, T, D].
        images: uint8 [n, h, w, 3], n at least 2.
        frames: Frames in a clip.
        trained: Whether the weights are trained.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.
        causal: The causal encoder of a clip, likewise; None: there is none.
    """
    rows = torch.linspace(0, len(images) - 1, min(IMAGES, len(images))).round().int().unique()
    still_features, clip_features, causal_features = [], [], []
    for image in track(images[rows].unbind(0), "probing motion", begin):
        moved = [moving_window(image, direction, frames) for direction in DIRECTIONS]
        latent = still(moved[0][-1:]).mean(dim=1)
        still_features.append(latent.expand(len(DIRECTIONS), -1))
        clip_features.append(torch.cat([clip(each).mean(dim=1) for each in moved]))
        if causal is not None:
            causal_features.append(torch.cat([causal(each).mean(dim=1) for each in moved]))
    return MotionProbe(
        images=len(rows),
        frames=frames,
        trained=trained,
        chance=1 / len(DIRECTIONS),
        still_accuracy=_accuracy(torch.stack(still_features)),
        clip_accuracy=_accuracy(torch.stack(clip_features)),
        causal_accuracy=_accuracy(torch.stack(causal_features)) if causal_features else None,
    )


def moving_window(image: Tensor, direction: tuple[int, int], frames: int) -> Tensor:
    """Return a clip of a window that moves in ``direction`` (rows, columns) and ends in the center.

    Args:
        image: uint8 [h, w, 3].
        direction: The sign of the motion along each axis.
        frames: Frames in the clip.

    Returns:
        uint8 [frames, h, w, 3].
    """
    size = image.shape[:2]
    ways = torch.linspace(1, 0, frames).tolist()
    windows = []
    for way in ways:
        starts = [
            round(side * ((1 - _SIDE) / 2 - sign * _PATH * way))
            for side, sign in zip(size, direction, strict=True)
        ]
        (top, left), (height, width) = starts, (round(side * _SIDE) for side in size)
        windows.append(image[top : top + height, left : left + width])
    pixels = torch.stack(windows).permute(0, 3, 1, 2).float()
    resized = interpolate(pixels, size=tuple(size), mode="bilinear", align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _accuracy(features: Tensor) -> float:
    """Return the accuracy of a ridge classifier of features [images, directions, D] on held-out images."""
    count = features.shape[1]
    fitted, held_out = (features[start::2].double().flatten(0, 1) for start in (0, 1))
    mean = fitted.mean(dim=0)
    labels = torch.arange(count).repeat(len(fitted) // count)
    centered, targets = fitted - mean, one_hot(labels, count).double() - 1 / count
    # In its dual form: there are fewer clips than dimensions.
    gram = centered @ centered.T
    unit = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny) * torch.eye(len(gram)).double()
    scores = (held_out - mean) @ centered.T @ torch.linalg.solve(gram + _RIDGE * unit, targets)
    expected = torch.arange(count).repeat(len(held_out) // count)
    return float((scores.argmax(dim=1) == expected).double().mean())
