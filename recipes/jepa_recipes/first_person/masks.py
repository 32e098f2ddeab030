"""Masks: which tokens of the frames of a clip are hidden, in blocks, the same in all of its frames.

Were the blocks elsewhere in each frame, a hidden token could be copied from the frame before (Bardes et al.
2024, "Revisiting feature prediction for learning visual representations from video").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_recipes.first_person.networks import COLUMNS, ROWS, TOKENS

Ints = NDArray[np.int64]

MIN_HIDDEN, MAX_HIDDEN = 0.6, 0.75
_ROWS, _COLUMNS = (2, 4), (3, 7)


@dataclass(frozen=True)
class Masks:
    """Visible and hidden tokens of a frame, for N clips.

    Attributes:
        visible: Numbers of the V visible tokens, in ascending order [N, V].
        hidden: Those of the others [N, TOKENS - V].
    """

    visible: Ints
    hidden: Ints


def sample_masks(count: int, rng: np.random.Generator) -> Masks:
    """Return masks for ``count`` clips, which hide equally many tokens."""
    hidden = int(rng.integers(round(MIN_HIDDEN * TOKENS), round(MAX_HIDDEN * TOKENS), endpoint=True))
    masks = np.stack([_sample(hidden, rng) for _ in range(count)])
    numbers = np.broadcast_to(np.arange(TOKENS), masks.shape)
    return Masks(numbers[~masks].reshape(count, -1), numbers[masks].reshape(count, -1))


def _sample(hidden: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask [TOKENS] of blocks; of the last one, only as many tokens are hidden as are missing."""
    mask = np.zeros((ROWS, COLUMNS), bool)
    while (missing := hidden - int(mask.sum())) > 0:
        rows, columns = rng.integers(*_ROWS, endpoint=True), rng.integers(*_COLUMNS, endpoint=True)
        top, left = rng.integers(ROWS - rows, endpoint=True), rng.integers(COLUMNS - columns, endpoint=True)
        block = np.zeros_like(mask)
        block[top : top + rows, left : left + columns] = True
        mask.flat[np.flatnonzero(block & ~mask)[:missing]] = True
    return mask.reshape(-1)
