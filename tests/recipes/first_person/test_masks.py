"""Masks of clips: how much they hide, and where."""

from __future__ import annotations

import numpy as np

from jepa_recipes.first_person.masks import MAX_HIDDEN, MIN_HIDDEN, Masks, sample_masks
from jepa_recipes.first_person.networks import COLUMNS, ROWS, TOKENS

CLIPS = 20


def samples() -> list[Masks]:
    rng = np.random.default_rng(0)
    return [sample_masks(CLIPS, rng) for _ in range(50)]


def hidden_map(masks: Masks) -> np.ndarray:
    found = np.zeros((CLIPS, TOKENS), bool)
    np.put_along_axis(found, masks.hidden, True, 1)
    return found.reshape(CLIPS, ROWS, COLUMNS)


def test_masks_divide_the_tokens_of_each_clip_in_visible_and_hidden_ones() -> None:
    for masks in samples():
        every = np.sort(np.concatenate([masks.visible, masks.hidden], axis=1), axis=1)
        np.testing.assert_array_equal(every, np.broadcast_to(np.arange(TOKENS), every.shape))


def test_masks_hide_between_60_and_75_percent() -> None:
    rates = [masks.hidden.shape[1] / TOKENS for masks in samples()]
    assert MIN_HIDDEN - 0.01 <= min(rates) < 0.65 and 0.7 < max(rates) <= MAX_HIDDEN + 0.01


def test_masks_of_clips_differ_and_no_token_is_always_visible_or_hidden() -> None:
    rate = np.mean([hidden_map(masks).mean(0) for masks in samples()], axis=0)
    assert rate.min() > 0.1 and rate.max() < 0.99
    assert len(np.unique(hidden_map(samples()[0]).reshape(CLIPS, -1), axis=0)) == CLIPS


def test_masks_are_blocks() -> None:
    """With single tokens hidden at random, neighbors would differ at a rate of 2 p (1 - p), at least 0.37."""
    found = np.concatenate([hidden_map(masks) for masks in samples()])
    assert (found[:, :, 1:] != found[:, :, :-1]).mean() < 0.25
    assert (found[:, 1:] != found[:, :-1]).mean() < 0.3
