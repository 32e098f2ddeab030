"""A library of encoded recordings, the training data of stages 2 and 3; only first frames are stored."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.training.prefetch import in_order
from jepa_recipes.training_worlds.interface import TrainingWorld
from jepa_runtime.util import atomic_files

TRAJECTORIES, FRAMES = 16, 17
# Proportion of robots that press on; from wandering ones alone the predictor hardly learns where planners
# fail.
PRESSING = 0.5
_LAYOUTS_A_DRAW = 4


@dataclass(frozen=True)
class LatentLibrary:
    """L layouts of M trajectories of T frames.

    Attributes:
        latents: [L, M, T, 2, D].
        actions: [L, M, T-1, 2].
        first_frames: First frame of each trajectory, uint8 [L, M, 128, 128, 3].
    """

    latents: Tensor
    actions: Tensor
    first_frames: Tensor


def read_library(path: Path) -> LatentLibrary:
    """Read a library that :func:`build_library` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return LatentLibrary(*(torch.from_numpy(stored[field.name]) for field in fields(LatentLibrary)))


def build_library(
    encoder: nn.Module,
    seed: int,
    stream: int,
    *,
    layouts: int,
    training_world: TrainingWorld,
    renderer: Executor,
    cache: Path,
) -> LatentLibrary:
    """Record and encode ``layouts`` layouts, drawn from the random ``stream``; cached in ``cache``."""
    if cache.exists():
        return read_library(cache)
    draws = -(-layouts // _LAYOUTS_A_DRAW)

    def draw(index: int) -> Future[Recordings]:
        return renderer.submit(
            training_world.record,
            (seed, stream, index),
            layouts=_LAYOUTS_A_DRAW,
            trajectories=TRAJECTORIES,
            frames=FRAMES,
            pressing=PRESSING,
        )

    parts: list[list[Tensor]] = [[], [], []]
    encoder.eval()
    for data in track(in_order(draw, 0, draws), description="       library", total=draws):
        frames = torch.from_numpy(data.frames)
        with torch.no_grad():
            encoded = torch.cat([encoder(chunk) for chunk in frames.flatten(0, 2).split(68)])
        columns = (encoded.unflatten(0, frames.shape[:3]), data.actions, frames[:, :, 0].clone())
        for part, value in zip(parts, columns, strict=True):
            part.append(torch.as_tensor(value))
    library = LatentLibrary(*(torch.cat(part) for part in parts))
    atomic_files.remove_unfinished(cache)
    with atomic_files.replacing(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, **{field.name: getattr(library, field.name).numpy() for field in fields(library)})
    return library
