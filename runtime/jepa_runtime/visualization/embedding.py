"""Latents as places on a plane and as colours: principal components, fitted once and then kept.

The plane is spanned by how latents *move* within a stretch of time, not by how they differ from each other:
over many scenes the greatest difference is which scene it is, and a map of that would show every future of
one scene in one spot. Signs are fixed (the largest component of an axis is positive), so that equal latents
give equal pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
Latents = NDArray[Any]
"""[..., T, D], of float16 or float32."""

_MOST_ROWS = 1024
# What moves further than this many usual moves has not moved: another scene began.
_JUMP = 3.0
_ENDS = (2.0, 98.0)


@dataclass(frozen=True)
class Embedding:
    """A plane through the space of latents.

    Attributes:
        mean: [T * D], the point that is its origin.
        axes: [2, T * D], orthonormal.
        explained: [2], the share of all movement that lies along each axis.
    """

    mean: Floats
    axes: Floats
    explained: Floats

    def project(self, latents: Latents) -> Floats:
        """Places [..., 2] of ``latents`` [..., T, D]."""
        flat = np.asarray(latents, np.float32).reshape(*latents.shape[:-2], -1)
        places: Floats = (flat - self.mean) @ self.axes.T
        return places


@dataclass(frozen=True)
class Palette:
    """Colours of tokens: by how each differs from what is usual at its place.

    Attributes:
        mean: [T, D].
        axes: [3, D] for red, green and blue.
        low, high: [3], what is darkest and what is brightest.
    """

    mean: Floats
    axes: Floats
    low: Floats
    high: Floats

    def colours(self, latents: Latents) -> Image:
        """RGB [..., T, 3] of ``latents`` [..., T, D]."""
        places = (np.asarray(latents, np.float32) - self.mean) @ self.axes.T
        shares = (places - self.low) / np.maximum(self.high - self.low, 1e-9)
        colours: Image = (255.0 * np.clip(shares, 0.0, 1.0)).astype(np.uint8)
        return colours


def fit_embedding(latents: Latents, lag: int) -> Embedding:
    """The plane in which ``latents`` [N, T, D], in their order in time, move most within ``lag`` frames."""
    flat = np.asarray(latents, np.float32).reshape(len(latents), -1)
    mean = flat.mean(axis=0)
    lag = max(1, min(lag, len(flat) // 2))
    moves = flat[lag:] - flat[:-lag]
    lengths = np.linalg.norm(moves, axis=1)
    moves = moves[lengths <= _JUMP * np.median(lengths)] if len(moves) else flat - mean
    axes, explained = _principal(moves, 2)
    return Embedding(mean, axes, explained)


def fit_palette(latents: Latents) -> Palette:
    """Colours that tell the tokens of ``latents`` [N, T, D] apart."""
    chosen = np.asarray(latents[:: -(-len(latents) // _MOST_ROWS)], np.float32)
    mean = chosen.mean(axis=0)
    rows = (chosen - mean).reshape(-1, chosen.shape[-1])
    axes, _ = _principal(rows, 3)
    low, high = np.percentile(rows @ axes.T, _ENDS, axis=0).astype(np.float32)
    return Palette(mean, axes, low, high)


def _principal(rows: Floats, count: int) -> tuple[Floats, Floats]:
    """The first ``count`` principal axes [count, F] of ``rows`` [N, F] about zero, and the share of each.

    Axes that the rows do not have are zero.
    """
    chosen = rows[:: -(-len(rows) // _MOST_ROWS)]
    axes, explained = np.zeros((count, rows.shape[1]), np.float32), np.zeros(count, np.float32)
    _, sizes, found = np.linalg.svd(chosen, full_matrices=False)
    there = min(count, int((sizes > 1e-6 * max(float(sizes[0]), 1e-30)).sum()))
    axes[:there] = found[:there]
    axes *= np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])[:, None]
    total = float(np.square(sizes).sum())
    if total > 0:
        explained[:there] = np.square(sizes[:there]) / total
    return axes, explained
