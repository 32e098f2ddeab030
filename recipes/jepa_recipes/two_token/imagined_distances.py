"""Temporal distances between latents, from imagined transitions.

The straight distance between latents ignores the wall, and a planner that follows it stops there. So
distances are counted in steps: the latents of a recorded layout are the nodes of a graph; an edge connects
two of them if the predictor, with one action at top speed held for up to a few steps, arrives at the second
from the first; the shortest path in this graph is the distance. This is search on a replay buffer (Eysenbach
et al. 2019, "Search on the replay buffer") with predicted edges. No position is used.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, SCENE, Predictor
from jepa_runtime.util import atomic_files

HEADINGS = 24
STRIDE = 4
ARRIVED = 0.55


def latent_step(library: LatentLibrary, top_speed: float) -> float:
    """Return how far the robot token moves per free step at top speed (median over fast steps)."""
    moved = (library.latents[:, :, 1:, ROBOT] - library.latents[:, :, :-1, ROBOT]).norm(dim=-1).flatten()
    relative_speed = library.actions.norm(dim=-1).flatten() / top_speed
    fast = relative_speed > 0.8
    return float((moved[fast] / relative_speed[fast]).median())


@torch.no_grad()
def steps_between(latents: Tensor, predictor: Predictor, unit: float) -> Tensor:
    """Return the number of steps at top speed between all pairs of ``latents`` [N, 2, D] of one layout.

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
    apart = torch.cdist(robot, robot) / unit
    cost = torch.where(apart < ARRIVED, apart, infinite)
    for step in range(STRIDE):
        short = torch.cdist(arrived[:, step], robot).div_(unit).unflatten(0, (count, HEADINGS)).amin(dim=1)
        cost = torch.minimum(cost, torch.where(short < ARRIVED, short + step + 1, infinite))
    # SciPy reads zero as "no edge": a tiny length keeps coinciding latents connected.
    graph = torch.where(cost.isfinite(), cost + 1e-6, 0.0).numpy()
    return torch.from_numpy(shortest_path(graph, method="D").astype(np.float32))


def load_or_compute_distances(library: LatentLibrary, predictor: Predictor, cache: Path) -> Tensor:
    """Return :func:`steps_between` for each layout of ``library``, float16 [L, N, N], from ``cache``."""
    if cache.exists():
        return torch.from_numpy(np.load(cache, allow_pickle=False))
    unit = latent_step(library, predictor.top_speed)
    found = [
        steps_between(latents.flatten(0, 1), predictor, unit).half()
        for latents in track(library.latents, description="      distances")
    ]
    distances = torch.stack(found)
    atomic_files.remove_unfinished(cache)
    with atomic_files.replacing(cache) as temporary, temporary.open("wb") as file:
        np.save(file, distances.numpy())
    return distances
