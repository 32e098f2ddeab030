"""Map latents to points in a plane and to colors with principal components that are fitted once.

The plane is fitted to the *changes* of latents over a time interval, not to the latents: over many scenes,
the largest differences are those between scenes, and such a map would show all futures of one scene in one
spot. Signs are fixed (the largest component of an axis is positive), so that equal latents give equal images.
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

_MAX_ROWS = 1024
# Changes larger than this multiple of the median are changes of the scene, and are ignored.
_SCENE_CHANGE = 3.0
_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Embedding:
    """A plane through the space of latents.

    Attributes:
        mean: [T * D], the origin.
        axes: [2, T * D], orthonormal.
        explained: [2], the fraction of the variance of all changes along each axis.
    """

    mean: Floats
    axes: Floats
    explained: Floats

    def project(self, latents: Latents) -> Floats:
        """Return the coordinates [..., 2] of ``latents`` [..., T, D]."""
        flat = np.asarray(latents, np.float32).reshape(*latents.shape[:-2], -1)
        points: Floats = (flat - self.mean) @ self.axes.T
        return points


@dataclass(frozen=True)
class TokenColors:
    """Colors of tokens, by their deviation from the mean of their position.

    Attributes:
        mean: [T, D].
        axes: [3, D] for red, green and blue.
        low: [3], the values of the darkest color.
        high: [3], the values of the brightest color.
    """

    mean: Floats
    axes: Floats
    low: Floats
    high: Floats

    def colors(self, latents: Latents) -> Image:
        """Return the RGB colors [..., T, 3] of ``latents`` [..., T, D]."""
        points = (np.asarray(latents, np.float32) - self.mean) @ self.axes.T
        fractions = (points - self.low) / np.maximum(self.high - self.low, 1e-9)
        colors: Image = (255.0 * np.clip(fractions, 0.0, 1.0)).astype(np.uint8)
        return colors


def fit_embedding(latents: Latents, lag: int) -> Embedding:
    """Fit the plane in which ``latents`` [N, T, D], in temporal order, change most within ``lag`` frames."""
    flat = np.asarray(latents, np.float32).reshape(len(latents), -1)
    mean = flat.mean(axis=0)
    lag = max(1, min(lag, len(flat) // 2))
    changes = flat[lag:] - flat[:-lag]
    lengths = np.linalg.norm(changes, axis=1)
    changes = changes[lengths <= _SCENE_CHANGE * np.median(lengths)] if len(changes) else flat - mean
    axes, explained = _principal_axes(changes, 2)
    return Embedding(mean, axes, explained)


def fit_token_colors(latents: Latents) -> TokenColors:
    """Fit colors that distinguish the tokens of ``latents`` [N, T, D]."""
    chosen = np.asarray(latents[:: -(-len(latents) // _MAX_ROWS)], np.float32)
    mean = chosen.mean(axis=0)
    rows = (chosen - mean).reshape(-1, chosen.shape[-1])
    axes, _ = _principal_axes(rows, 3)
    low, high = np.percentile(rows @ axes.T, _PERCENTILES, axis=0).astype(np.float32)
    return TokenColors(mean, axes, low, high)


def _principal_axes(rows: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the first ``count`` principal axes [count, F] of uncentered ``rows`` [N, F].

    Also returns the fraction of the variance along each. Axes beyond the rank of the rows are zero.
    """
    chosen = rows[:: -(-len(rows) // _MAX_ROWS)]
    axes, explained = np.zeros((count, rows.shape[1]), np.float32), np.zeros(count, np.float32)
    _, sizes, found = np.linalg.svd(chosen, full_matrices=False)
    rank = min(count, int((sizes > 1e-6 * max(float(sizes[0]), 1e-30)).sum()))
    axes[:rank] = found[:rank]
    axes *= np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])[:, None]
    total = float(np.square(sizes).sum())
    if total > 0:
        explained[:rank] = np.square(sizes[:rank]) / total
    return axes, explained
