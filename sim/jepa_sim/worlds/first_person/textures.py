"""Procedural textures of walls, floors, ceilings, pictures and furniture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

TEXTURES = 240
# The last ones appear in held-out layouts only.
HELD_OUT_TEXTURES = 48
SIZE_PX = 64
# Mip-map levels: each has half the size of the one before.
MIP_LEVELS = 4
SEED = 7

Floats = NDArray[np.float64]


@cache
def load_textures(seed: int = SEED) -> NDArray[np.float32]:
    """Return all textures as mip-maps [texture, level, row, column, RGB], values from 0 to 255.

    Level ``l`` fills the first ``SIZE_PX >> l`` rows and columns. Models are trained with the default seed.
    """
    rng = np.random.default_rng(seed)
    finest = np.stack([_texture(rng) for _ in range(TEXTURES)]).astype(np.float32)
    textures = np.zeros((TEXTURES, MIP_LEVELS, SIZE_PX, SIZE_PX, 3), np.float32)
    for level in range(MIP_LEVELS):
        size, block = SIZE_PX >> level, 1 << level
        textures[:, level, :size, :size] = finest.reshape(TEXTURES, size, block, size, block, 3).mean((2, 4))
    textures.setflags(write=False)
    return textures


def texture_numbers(*, held_out: bool) -> NDArray[np.int64]:
    """Return the numbers of the textures in training layouts, or of those in held-out layouts."""
    training = TEXTURES - HELD_OUT_TEXTURES
    return np.arange(training, TEXTURES) if held_out else np.arange(training)


def _texture(rng: np.random.Generator) -> Floats:
    """Return a texture [SIZE_PX, SIZE_PX, 3] that repeats without a seam: two colors, mixed by a pattern."""
    size = SIZE_PX
    y, x = np.mgrid[:size, :size]
    base, other = _colors(rng)
    kind = rng.integers(9)
    repeats = int(rng.choice([2, 4, 8]))
    pattern: NDArray[np.generic]
    if kind == 0:  # almost plain
        pattern = 0.15 * _noise(rng, [4, 8, 16])
    elif kind == 1:  # checkerboard
        pattern = ((x * repeats // size) + (y * repeats // size)) % 2
    elif kind == 2:  # vertical stripes
        pattern = np.sin(2 * np.pi * repeats * x / size) > rng.uniform(-0.7, 0.7)
    elif kind == 3:  # bricks
        row = y * repeats // size
        shifted = (x + (row % 2) * size // (2 * repeats)) % size
        pattern = (((y * repeats) % size) < size * 0.12) | (((shifted * repeats) % size) < size * 0.1)
    elif kind == 4:  # wood
        pattern = 0.5 + 0.5 * np.sin(2 * np.pi * (repeats * x / size + 0.25 * _noise(rng, [2, 4])))
    elif kind == 5:  # clouds
        pattern = 0.5 + 0.4 * _noise(rng, [4, 8, 16, 32])
    elif kind == 6:  # dots
        across, down = (x * repeats) % size - size / 2, (y * repeats) % size - size / 2
        pattern = across**2 + down**2 < (size * rng.uniform(0.2, 0.42)) ** 2
    elif kind == 7:  # spots
        pattern = _noise(rng, [4, 8]) > 0.2
    else:  # horizontal stripes
        pattern = np.sin(2 * np.pi * repeats * y / size) > rng.uniform(-0.7, 0.7)
    mix = np.clip(pattern.astype(float), 0, 1)[..., None]
    grain = 6 * rng.uniform(0, 1.5) * _noise(rng, [16, 32])[..., None]
    image: Floats = np.clip(base * (1 - mix) + other * mix + grain, 0, 255)
    return image


def _colors(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return two colors, mostly muted, like those of paint, wood, stone and fabric."""
    saturation = rng.beta(1.3, 2.2)
    gray, hue = rng.uniform(70, 215), rng.uniform(-1, 1, 3)
    hue = hue / np.abs(hue).max() * 100
    base = gray + saturation * hue
    size, factor = (40, saturation) if rng.random() < 0.7 else (90, 1.0)
    change = rng.uniform(-1, 1, 3) * size * factor
    other = base + rng.choice([-1, 1]) * rng.uniform(25, 90) + change
    return np.clip(base, 15, 245), np.clip(other, 10, 250)


def _noise(rng: np.random.Generator, frequencies: Sequence[int]) -> NDArray[np.float32]:
    """Return periodic value noise [SIZE_PX, SIZE_PX] of unit standard deviation."""
    total = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    for frequency in frequencies:
        grid = rng.standard_normal((frequency, frequency)).astype(np.float32)
        position = np.arange(SIZE_PX) * frequency / SIZE_PX
        low = position.astype(int) % frequency
        high = (low + 1) % frequency
        weight = (position - position.astype(int)).astype(np.float32)
        weight = weight * weight * (3 - 2 * weight)
        upper = grid[low][:, low] * (1 - weight)[None] + grid[low][:, high] * weight[None]
        lower = grid[high][:, low] * (1 - weight)[None] + grid[high][:, high] * weight[None]
        total += (upper * (1 - weight)[:, None] + lower * weight[:, None]) / frequency**0.7
    noise: NDArray[np.float32] = total / (total.std() + 1e-6)
    return noise
