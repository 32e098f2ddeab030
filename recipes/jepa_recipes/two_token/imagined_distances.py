"""Temporal distances between latents, from imagined transitions.

The straight distance between latents ignores the wall, and a planner that follows it stops there. So
distances are counted in steps: the latents of a recorded layout are the nodes of a graph; an edge connects
two of them if the predictor, with one action at top speed held for up to a few steps, arrives at the second
from the first; the shortest path in this graph is the distance. This is search on a replay buffer (Eysenbach
et al. 2019, "Search on the replay buffer") with predicted edges. No position is used. "Arrives" is decided in
coordinates: the robot token itself, or the joint angles that are estimated from it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.sparse.csgraph import shortest_path
from torch import Tensor, nn

from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, SCENE, Predictor
from jepa_runtime.util import atomic_files

HEADINGS = 24
STRIDE = 4
ARRIVED = 0.55


@torch.no_grad()
def latent_step(library: LatentLibrary, top_speed: float, coordinates: nn.Module) -> float:
    """Return how far the robot moves per free step at top speed (median over fast steps)."""
    place = coordinates(library.latents[..., ROBOT, :])
    moved = (place[:, :, 1:] - place[:, :, :-1]).norm(dim=-1).flatten()
    relative_speed = library.actions.norm(dim=-1).flatten() / top_speed
    fast = relative_speed > 0.8
    return float((moved[fast] / relative_speed[fast]).median())


@torch.no_grad()
def steps_between(latents: Tensor, predictor: Predictor, unit: float, coordinates: nn.Module) -> Tensor:
    """Return the number of steps at top speed between all pairs of ``latents`` [N, 2, D] of one layout.

    Args:
        latents: Nodes.
        predictor: Predictor of the robot token.
        unit: How far the robot moves per step, see :func:`latent_step`.
        coordinates: Function of robot tokens [..., D] in which distances are measured.

    Returns:
        [N, N]; infinite where no path exists.
    """
    count, robot = len(latents), latents[:, ROBOT].contiguous()
    angle = torch.arange(HEADINGS) * (2 * math.pi / HEADINGS)
    headings = predictor.top_speed * torch.stack([angle.cos(), angle.sin()], dim=1)
    actions = headings.repeat(count, 1)[:, None].expand(-1, STRIDE, -1)
    arrived = predictor.rollout(
        latents[:, SCENE].repeat_interleave(HEADINGS, 0), robot.repeat_interleave(HEADINGS, 0), actions
    )
    infinite = torch.tensor(math.inf)
    place = coordinates(robot)
    apart = torch.cdist(place, place) / unit
    cost = torch.where(apart < ARRIVED, apart, infinite)
    for step in range(STRIDE):
        ended = torch.cdist(coordinates(arrived[:, step]), place).div_(unit)
        short = ended.unflatten(0, (count, HEADINGS)).amin(dim=1)
        cost = torch.minimum(cost, torch.where(short < ARRIVED, short + step + 1, infinite))
    # SciPy reads zero as "no edge": a tiny length keeps coinciding latents connected.
    graph = torch.where(cost.isfinite(), cost + 1e-6, 0.0).numpy()
    return torch.from_numpy(shortest_path(graph, method="D").astype(np.float32))


def load_or_compute_distances(
    library: LatentLibrary, predictor: Predictor, coordinates: nn.Module, cache: Path
) -> Tensor:
    """Return :func:`steps_between` for each layout of ``library``, float16 [L, N, N], from ``cache``."""
    if cache.exists():
        return torch.from_numpy(np.load(cache, allow_pickle=False))
    unit = latent_step(library, predictor.top_speed, coordinates)
    found = [
        steps_between(latents.flatten(0, 1), predictor, unit, coordinates).half()
        for latents in track(library.latents, description="      distances")
    ]
    distances = torch.stack(found)
    atomic_files.remove_unfinished(cache)
    with atomic_files.replacing(cache) as temporary, temporary.open("wb") as file:
        np.save(file, distances.numpy())
    return distances
