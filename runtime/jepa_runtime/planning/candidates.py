"""Default candidates if none are proposed: constant actions in all directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.planning.action_limits import ActionLimits

_DIRECTION_SEED = 20


def default_candidates(manifest: Manifest, num_samples: int | None = None) -> NDArray[np.float32]:
    """Return constant actions over the whole horizon, float32 [K, H, A], within the model's box and norm.

    The first candidate is to stand (or the nearest action inside the box). The others are spread evenly over
    the circle (A = 2), both directions (A = 1) or the sphere (A > 2), at full, two-thirds and one-third size
    if K permits.

    Args:
        manifest: Manifest with action limits and horizon.
        num_samples: K; None: the manifest's.

    Raises:
        ValueError: ``num_samples`` is less than 1.
    """
    count = manifest.num_samples if num_samples is None else num_samples
    if count < 1:
        raise ValueError(f"num_samples must be at least 1, got {count}")
    limits = ActionLimits.of(manifest)
    rest = limits.clip(np.zeros_like(limits.low))
    sizes = (1.0, 2 / 3, 1 / 3) if count > 12 else (1.0,)
    chosen = [rest[None]]
    for ring, size in enumerate(sizes):
        per_ring = (count - sum(map(len, chosen))) // (len(sizes) - ring)
        directions = _directions(len(rest), per_ring, ring).astype(np.float32)
        reach = np.where(directions > 0, limits.high - rest, rest - limits.low)
        furthest = limits.clip(rest + directions * reach)
        chosen.append(rest + size * (furthest - rest))
    actions = limits.clip(np.concatenate(chosen))
    return np.repeat(actions[:, None], manifest.horizon, axis=1)


def _directions(size: int, count: int, ring: int) -> NDArray[np.float64]:
    """Return ``count`` unit vectors [count, size]; rings are rotated against each other."""
    if size == 1:
        return np.where(np.arange(count) % 2 == 0, 1.0, -1.0)[:, None] * np.linspace(1.0, 0.5, count)[:, None]
    if size == 2:
        angle = 2 * np.pi * (np.arange(count) + ring / 3) / max(count, 1)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vectors = np.random.default_rng(_DIRECTION_SEED + ring).standard_normal((count, size))
    unit: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
