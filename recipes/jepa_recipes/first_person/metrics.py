"""Accuracy on held-out drives, as the robot's camera sees them, and the thresholds of the bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa_export.bundling.manifest_fields import ERROR_QUANTILE, FALSE_ALARM_RATE
from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.evaluation import Encoder, evaluate, predict_unchanged
from jepa_recipes.first_person.exported_graphs import EnergyGraph
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.odometry_losses import relative_poses
from jepa_recipes.first_person.prediction_losses import Imagination, imagine
from jepa_sim.worlds.first_person.levels import TOLERANCE_M, TOLERANCE_RAD

# Rate of images within half the tolerance of a goal at which the goal counts as reached.
ARRIVALS = 0.95
BATCHES = 150
_SHAPE = ClipShape(drives=4, frames=10, turned=0, consecutive=4)


@dataclass(frozen=True)
class DriveMetrics:
    """Accuracy on held-out drives; lists are over prediction steps 1 … H.

    Attributes:
        error_bounds: 90 % quantile of the norm of predicted minus encoded latent.
        surprise_threshold: One-step root mean squared error that 0.1 % of normal frames exceed.
        goal_threshold: Energy that 95 % of pairs of images stay below that are within half the tolerance of a
            goal, 0.15 m and 10 degrees by odometry.
        unchanged_bounds: What ``error_bounds`` would be if nothing was predicted to move.
        reached: Rate of pairs at or below ``goal_threshold``, by how far apart they are in tolerances.
        readings: The tables of :func:`~jepa_recipes.first_person.evaluation.evaluate`, without medians of
            few pairs.
    """

    error_bounds: list[float]
    surprise_threshold: float
    goal_threshold: float
    unchanged_bounds: list[float]
    reached: dict[str, float]
    readings: dict[str, dict[str, float]]


@torch.no_grad()
def measure(
    networks: Networks, held_out: DriveLibrary, *, horizon: int, batches: int = BATCHES
) -> DriveMetrics:
    """Return the accuracy of predictions of ``horizon`` steps, and of readings.

    Args:
        networks: Trained networks.
        held_out: Drives in layouts and with textures that they were not trained on.
        horizon: Number of steps H.
        batches: Number of batches, of four drives each.
    """
    rng = np.random.default_rng(0)
    errors, still, surprises = list[Tensor](), list[Tensor](), list[Tensor]()
    apart, energies = list[Tensor](), list[Tensor]()
    energy = EnergyGraph(networks.head)
    for _ in range(batches):
        clips = sample_clips(held_out, _SHAPE, rng, augment=False)
        commands, odometry = torch.from_numpy(clips.commands), torch.from_numpy(clips.odometry)
        latents = networks.encoder(torch.from_numpy(clips.images).flatten(0, 1))
        latents = latents.unflatten(0, (-1, _SHAPE.frames))
        predictor = networks.predictor
        errors.append(_norms(imagine(predictor, latents, commands, steps=horizon), latents))
        still.append(_norms(imagine(predict_unchanged, latents, commands, steps=horizon), latents))
        surprises.append(_norms(imagine(predictor, latents, commands, steps=1), latents)[0])
        distances, (drive, first, second) = near_pairs(odometry)
        apart.append(distances)
        energies.append(energy(latents[drive, first], latents[drive, second]))
    tolerances, found = torch.cat(apart), torch.cat(energies)
    goal_threshold = float(found[tolerances <= 0.5].quantile(ARRIVALS))
    one_step = torch.cat(surprises) / math.sqrt(latents[0, 0].numel())
    return DriveMetrics(
        error_bounds=torch.cat(errors, 1).quantile(ERROR_QUANTILE, dim=1).tolist(),
        surprise_threshold=float(one_step.quantile(1 - FALSE_ALARM_RATE)),
        goal_threshold=goal_threshold,
        unchanged_bounds=torch.cat(still, 1).quantile(ERROR_QUANTILE, dim=1).tolist(),
        reached={
            f"{least:g}-{most:g}": float(
                (found[(tolerances > least) & (tolerances <= most)] <= goal_threshold).float().mean()
            )
            for least, most in ((0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2))
        },
        readings=measure_readings(networks.encoder, networks, held_out, batches=batches),
    )


def measure_readings(
    encoder: Encoder, networks: Networks, held_out: DriveLibrary, *, batches: int = BATCHES
) -> dict[str, dict[str, float]]:
    """Return the tables of :func:`~jepa_recipes.first_person.evaluation.evaluate`.

    Medians of few pairs are left out.

    Args:
        encoder: The encoder, which may differ from that of ``networks`` by its precision.
        networks: Trained networks, of which head and predictor are used.
        held_out: Held-out drives.
        batches: Number of batches, of four drives each.
    """
    tables = evaluate(encoder, networks.head, networks.predictor, held_out, batches=batches)
    return {
        name: {column: value for column, value in table.items() if not math.isnan(value)}
        for name, table in tables.items()
    }


def _norms(imagined: Imagination, latents: Tensor) -> Tensor:
    """Return the norms of predicted minus true latents [H, R]."""
    norms: Tensor = (imagined.latents - latents[imagined.moments]).flatten(2).norm(dim=-1)
    return norms


def near_pairs(odometry: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the pairs of frames of one drive that are at most two tolerances apart.

    Args:
        odometry: Odometry at F frames of D drives [D, F, 3].

    Returns:
        How far they are apart in tolerances [P], and their drives, first and second frames.
    """
    apart = relative_poses(odometry[:, :, None], odometry[:, None])
    turn = (apart[..., 2] + math.pi).remainder(2 * math.pi) - math.pi
    tolerances = torch.maximum(apart[..., :2].norm(dim=-1) / TOLERANCE_M, turn.abs() / TOLERANCE_RAD)
    different = ~torch.eye(odometry.shape[1], dtype=torch.bool)
    drive, first, second = torch.nonzero((tolerances <= 2) & different, as_tuple=True)
    return tolerances[drive, first, second], (drive, first, second)
