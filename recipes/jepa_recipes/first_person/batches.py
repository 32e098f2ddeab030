"""The batch of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_recipes.first_person.clips import Clips, sample_clips
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.pairs import Ints, sample_pairs
from jepa_recipes.first_person.schedule import Amount

# Other streams of the seed sample the libraries.
_STREAM = 1


@dataclass(frozen=True)
class Batch:
    """Clips, and the pairs of their frames whose relative pose is learned."""

    clips: Clips
    pairs: tuple[Ints, Ints]


def draw_batch(library: DriveLibrary, amount: Amount, seed: int, step: int) -> Batch:
    """Return the batch of a step, which follows from the seed and the number of the step alone."""
    rng = np.random.default_rng((seed, _STREAM, step))
    clips = sample_clips(library, amount.clips, rng)
    reach_m = amount.schedule.reach_m(amount.seen(step))
    return Batch(clips, sample_pairs(clips.odometry, amount.pairs, reach_m=reach_m, rng=rng))
