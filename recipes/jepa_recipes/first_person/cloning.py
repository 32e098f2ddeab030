"""Behavior cloning: a policy learns the commands of an expert from the current image and a goal image.

It is a floor to compare with: no pose is read, nothing is predicted, and nothing is planned. The policy has
the encoder of the joint stage, which stays as it is, and a head of the same size as the one that reads poses,
which it starts from. It sees the same frames and pairs of frames: any image of a drive is the goal of the
others. Each frame gets the command of the :class:`~jepa_recipes.first_person.expert.Expert`, which knows true
poses and the layout; a model does not learn from these. So the policy also learns what to do where the expert
would never be, which the expert's own drives do not show (Ross et al. 2011, "A reduction of imitation
learning and structured prediction to no-regret online learning").

The policy also learns how far it is to the goal, which decides where it stops, and which key frame of a route
is the nearest one (Shah et al. 2023, "GNM: A general navigation model to drive any robot").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.training.progress_log import HELD_OUT
from jepa_recipes.first_person.batches import Batch, draw_batch
from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.expert import Expert
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import Networks, PairHead
from jepa_recipes.first_person.pairs import MAX_REACH_M, sample_pairs
from jepa_recipes.first_person.schedule import Amount, Schedule
from jepa_recipes.first_person.sizes import STUDENT
from jepa_recipes.first_person.stage import DriveStage, StageSettings

Floats = NDArray[np.float32]

CLONING = Amount(
    clips=ClipShape(drives=12, frames=10, turned=3, consecutive=0),
    pairs=24,
    schedule=Schedule(warmup=5_000, reach=(0, 1), decay=50_000, evaluation=25_000),
    evaluation_batches=24,
)
"""Size of a batch, and the schedule: pairs are as far apart as those of a model at its end."""

# Outputs of the head: speed, turning rate, and the logarithm of the distance in meters plus an offset.
_OUTPUTS = 3
_MEAN, _STD, _OFFSET_M = (0.3, 0.0), (0.35, 0.8), 0.15
_EVALUATED = ClipShape(drives=4, frames=10, turned=3, consecutive=1)
_EVALUATED_PAIRS = 20


@dataclass(frozen=True)
class Advice:
    """What the expert says about P pairs of a position and a goal.

    Attributes:
        commands: Speed in m/s and turning rate in rad/s [P, 2].
        distances_m: Distance to the goal along the path, with turns [P].
    """

    commands: Floats
    distances_m: Floats

    def targets(self) -> Tensor:
        """Return what the head shall output [P, 3]."""
        commands = (torch.from_numpy(self.commands) - torch.tensor(_MEAN)) / torch.tensor(_STD)
        distances = torch.log(torch.from_numpy(self.distances_m) + _OFFSET_M)
        return torch.cat([commands, distances[:, None]], dim=1)


@dataclass(frozen=True)
class CloningBatch:
    """A batch, and what the expert says about its pairs."""

    batch: Batch
    advice: Advice


class Policy(nn.Module):
    """The networks of the policy.

    Args:
        networks: The networks of the joint stage, which remain unchanged.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.encoder, self.head = networks.encoder, PairHead(STUDENT, _OUTPUTS)
        self.encoder.requires_grad_(False)
        of_poses = networks.head.state_dict()
        own = self.head.state_dict()
        same = {
            name: value for name, value in of_poses.items() if name in own and value.shape == own[name].shape
        }
        self.head.load_state_dict(own | same)


class PolicyGraph(nn.Module):
    """The head with outputs in units of the robot."""

    mean: Tensor
    std: Tensor

    def __init__(self, head: PairHead) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.tensor(_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(_STD), persistent=False)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Return speed in m/s, turning rate in rad/s and distance in m [N, 3].

        Args:
            latents: Where the robot is [N, TOKENS, dim].
            goal: The goal [1, TOKENS, dim].
        """
        read = self.head(latents, goal)
        distance = (read[:, 2:].exp() - _OFFSET_M).clamp(min=0)
        return torch.cat([read[:, :2] * self.std + self.mean, distance], dim=1)


def advise(library: DriveLibrary, batch: Batch) -> Advice:
    """Ask the expert what to do at the first frame of each pair to get to the second one."""
    poses = batch.clips.poses
    experts = [Expert(library.layouts, int(which)) for which in batch.clips.which]
    commands, distances_m = list[NDArray[np.float64]](), list[float]()
    frames = poses.reshape(-1, 3)
    for first, second in zip(*batch.pairs, strict=True):
        expert = experts[first // poses.shape[1]]
        command, distance_m = expert.advise(frames[first], frames[second])
        commands.append(command)
        distances_m.append(distance_m)
    return Advice(np.array(commands, np.float32), np.array(distances_m, np.float32))


class CloningStage(DriveStage[CloningBatch]):
    """Training of the policy's head.

    Args:
        policy: The networks.
        settings: What the run gives to the stage.
    """

    tables = (HELD_OUT,)

    def __init__(self, policy: Policy, settings: StageSettings) -> None:
        self.policy = policy
        policy.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__("cloning", {"head": policy.head}, settings)

    def draw(self, step: int) -> CloningBatch:
        settings = self.settings
        batch = draw_batch(settings.library, settings.amount, settings.seed, step)
        return CloningBatch(batch, advise(settings.library, batch))

    def losses(self, step: int) -> dict[str, Tensor]:
        drawn = self.batch(step)
        first, second = (torch.from_numpy(numbers) for numbers in drawn.batch.pairs)
        with self.autocast():
            with torch.no_grad():
                latents = self.policy.encoder(torch.from_numpy(drawn.batch.clips.images).flatten(0, 1))
            commands = self.policy.head(latents[first], latents[second])
        # The median, unlike the mean, is one of two commands if both are possible.
        errors = (commands - drawn.advice.targets()).abs().mean(0)
        return {"command": errors[:2].sum(), "distance": errors[2]}

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {
            HELD_OUT: evaluate_policy(
                self.policy, self.settings.held_out, batches=self.settings.amount.evaluation_batches
            )
        }


@torch.no_grad()
def evaluate_policy(policy: Policy, held_out: DriveLibrary, *, batches: int) -> dict[str, float]:
    """Return the mean absolute errors on held-out drives.

    Speed, turning rate and logarithm of the distance; then, with the prefix ``median_``, those of a policy
    that always outputs the median of what the expert says.
    """
    rng = np.random.default_rng(0)
    read, targets = list[Tensor](), list[Tensor]()
    for _ in range(batches):
        clips = sample_clips(held_out, _EVALUATED, rng, augment=False)
        pairs = sample_pairs(clips.odometry, _EVALUATED_PAIRS, reach_m=MAX_REACH_M, rng=rng)
        latents = policy.encoder(torch.from_numpy(clips.images).flatten(0, 1))
        first, second = (torch.from_numpy(numbers) for numbers in pairs)
        read.append(policy.head(latents[first], latents[second]))
        targets.append(advise(held_out, Batch(clips, pairs)).targets())
    expected, scale = torch.cat(targets), torch.tensor([*_STD, 1.0])
    errors = ((torch.cat(read) - expected) * scale).abs().mean(0)
    constant = ((expected.median(0).values - expected) * scale).abs().mean(0)
    names = ("speed_mps", "turn_radps", "log_distance")
    return {name: float(error) for name, error in zip(names, errors, strict=True)} | {
        f"median_{name}": float(error) for name, error in zip(names, constant, strict=True)
    }
