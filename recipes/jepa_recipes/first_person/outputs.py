"""What the networks compute from a batch. Losses compare it with odometry, or with a teacher's outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_recipes.first_person.batches import Batch
from jepa_recipes.first_person.clips import ClipShape
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.prediction_losses import Imagination, imagine


@dataclass(frozen=True)
class ImaginedOutputs:
    """Rollouts from consecutive frames, and what was read from them.

    Attributes:
        rollouts: Imagined latents after S steps from each of R frames.
        goals: Number of the frame of its drive to which the relative pose of each one was read [S, R].
        read: The readings [S R, 8].
    """

    rollouts: Imagination
    goals: Tensor
    read: Tensor


@dataclass(frozen=True)
class Outputs:
    """What networks compute from a batch of D drives and F frames.

    Attributes:
        latents: Latents of all frames [D, F, TOKENS, dim].
        read: Relative poses of the pairs of the batch [P, 8].
        imagined: Rollouts; None if there are none yet.
    """

    latents: Tensor
    read: Tensor
    imagined: ImaginedOutputs | None


def compute_outputs(
    networks: Networks, batch: Batch, *, rollouts: ClipShape | None, goals: Tensor | None = None
) -> Outputs:
    """Return what ``networks`` compute from a batch.

    Args:
        networks: The networks.
        batch: The batch.
        rollouts: Size of the batch, whose consecutive frames rollouts begin at; None: no rollouts.
        goals: See :class:`ImaginedOutputs`; None: random ones, from torch's global generator.
    """
    images = torch.from_numpy(batch.clips.images)
    latents = networks.encoder(images.flatten(0, 1))
    first, second = (torch.from_numpy(numbers) for numbers in batch.pairs)
    read = networks.head(latents[first], latents[second])
    latents = latents.unflatten(0, images.shape[:2])
    if rollouts is None:
        return Outputs(latents, read, None)
    commands = torch.from_numpy(batch.clips.commands)
    return Outputs(latents, read, _imagine(networks, latents, commands, rollouts, goals))


def _imagine(
    networks: Networks, latents: Tensor, commands: Tensor, shape: ClipShape, goals: Tensor | None
) -> ImaginedOutputs:
    drives, before_turns = shape.consecutive, shape.frames - shape.turned
    rollouts = imagine(networks.predictor, latents[:drives, :before_turns], commands[:drives, :before_turns])
    drive, moment = rollouts.moments
    goals = torch.randint(0, shape.frames, moment.shape) if goals is None else goals
    read = networks.head(rollouts.latents.flatten(0, 1), latents[drive, goals].flatten(0, 1))
    return ImaginedOutputs(rollouts, goals, read)
