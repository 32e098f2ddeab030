"""What consecutive frames teach: latents that actions lead to, and imagined latents that can be read.

Predicted and true latents may differ in what the relative pose is read from, although the difference is
small: a planner would then follow errors of the model. So the head also reads imagined latents, with the
targets that the true frames of those moments have (grounding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 3
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class Imagination:
    """Rollouts over S steps from all R frames of consecutive drives that allow it.

    Attributes:
        latents: Imagined latents after each step [S, R, TOKENS, dim].
        moments: Drive and frame that each one stands for, both [S, R].
    """

    latents: Tensor
    moments: tuple[Tensor, Tensor]


def imagine(
    predictor: Callable[[Tensor, Tensor, Tensor], Tensor],
    latents: Tensor,
    commands: Tensor,
    *,
    steps: int = STEPS,
) -> Imagination:
    """Return rollouts on consecutive frames.

    Args:
        predictor: The predictor: a latent, the previous action and the action to the next latent.
        latents: Latents of F frames of D drives, one model step apart [D, F, TOKENS, dim].
        commands: Command that the robot held from each frame on [D, F, 2].
        steps: Number of steps S.
    """
    drives, frames = latents.shape[:2]
    # The first frame has no previous command.
    drive, start = torch.meshgrid(torch.arange(drives), torch.arange(1, frames - steps), indexing="ij")
    drive, start = drive.flatten(), start.flatten()
    latent, imagined = latents[drive, start], []
    for step in range(steps):
        previous, command = commands[drive, start + step - 1], commands[drive, start + step]
        latent = predictor(latent, previous, command)
        imagined.append(latent)
    arrived = torch.stack([start + step + 1 for step in range(steps)])
    return Imagination(torch.stack(imagined), (drive.expand_as(arrived), arrived))


def prediction_errors(imagined: Imagination, latents: Tensor) -> Tensor:
    """Return the smooth L1 error of each step [S], given the true latents [D, F, TOKENS, dim].

    Errors are in standard deviations of the true latents, which get gradients: they shall be predictable, but
    not small.
    """
    scale = latents.std() + _LEAST_STD
    true = latents[imagined.moments] / scale
    errors = functional.smooth_l1_loss(imagined.latents / scale, true, reduction="none")
    return errors.mean(dim=(1, 2, 3))
