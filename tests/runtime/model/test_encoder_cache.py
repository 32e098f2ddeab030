"""The cache of a causal encoder: positions, replaced and absent entries."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.bundle.manifest import ClipSpec
from jepa_runtime.model.encoder_cache import EncoderCache


def create() -> EncoderCache:
    return EncoderCache(ClipSpec(frames=8, frames_per_step=2, cache_shape=(2, 3)))


def filled(cache: EncoderCache, *steps: int) -> EncoderCache:
    for step in steps:
        cache.store(step, np.full((2, 3), step, np.float32))
    return cache


def positions_by_entry(cache: EncoderCache, step: int) -> dict[int, int]:
    """Return the position of each present entry by its content, which is its step."""
    *entries, _ = cache.positions(step)
    return {
        int(entry[0, 0]): int(place)
        for entry, place in zip(cache.entries, entries, strict=True)
        if place >= 0
    }


@pytest.mark.parametrize(
    ("stored", "step", "expected", "own"),
    [
        ((), 0, {}, 0),
        ((0,), 1, {0: 0}, 1),
        ((0, 1, 2), 3, {0: 0, 1: 1, 2: 2}, 3),
        ((0, 1, 2, 3, 4), 5, {2: 0, 3: 1, 4: 2}, 3),
        ((0, 1, 3), 4, {1: 0, 3: 2}, 3),
        ((0, 1, 2), 6, {}, 0),
        ((7, 8, 9), 3, {}, 0),
    ],
    ids=["empty", "first", "full", "replaced", "missing", "gap", "backwards"],
)
def test_positions_are_those_in_the_clip(
    stored: tuple[int, ...], step: int, expected: dict[int, int], own: int
) -> None:
    cache = filled(create(), *stored)
    assert positions_by_entry(cache, step) == expected
    assert cache.positions(step)[-1] == own


def test_entries_of_a_sequence_that_began_again_are_replaced_one_by_one() -> None:
    cache = filled(create(), 100, 101, 102, 3, 4)
    assert positions_by_entry(cache, 5) == {3: 0, 4: 1}


def test_entry_that_is_not_finite_is_absent() -> None:
    cache = filled(create(), 0)
    assert cache.store(1, np.full((2, 3), np.nan, np.float32)) is None
    assert positions_by_entry(cache, 2) == {0: 0} and np.isfinite(cache.entries).all()


def test_model_that_reads_whole_clips_has_no_cache() -> None:
    with pytest.raises(ValueError, match="no cache"):
        EncoderCache(ClipSpec(frames=8, frames_per_step=2))
