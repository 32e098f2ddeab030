"""The causal encoder, compared with the blocks of the official one and a block-causal mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_export.errors import JepaExportError
from jepa_export.teachers.causal import CausalEncoder, CausalStepEncoder, check_causal, entry_shape
from jepa_export.teachers.vjepa2 import Encoder, VJEPA2Config
from jepa_runtime.bundle.manifest import ClipSpec
from jepa_runtime.model.encoder_cache import EncoderCache
from tests.errors import code
from tests.export.teachers.tiny import PX, TINY, draw, seeded, shapes_of

STEPS, LENGTH, TOKENS = 3, 8, 9
NAMES = ["vjepa2", "vjepa2_1", "vjepa2_1_levels"]


@pytest.fixture(scope="module", autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Return an encoder with weights large enough that each part affects the output."""
    config = TINY[request.param].config
    assert isinstance(config, VJEPA2Config)
    model = config.build().eval().encoder
    model.load_state_dict(seeded(shapes_of(model.state_dict())))
    return model


def clips(tubelets: int) -> Tensor:
    return draw(1, 2 * tubelets, 3, PX, PX)


def masked(encoder: Encoder, shown: Tensor, steps: int) -> Tensor:
    """Return the tokens of the official blocks under a mask of windows of ``steps`` tubelets."""
    tokens = encoder._embed(shown)
    times = torch.arange(tokens.shape[1]) // TOKENS
    age = times[:, None] - times[None]
    mask = torch.where((age >= 0) & (age < steps), 0.0, -torch.inf)
    rotation, found = encoder.rope.first(tokens.shape[1]), list[Tensor]()
    for index, block in enumerate(encoder.blocks):
        tokens = block(tokens, rotation, mask)
        if index in encoder.config.taps:
            found.append(encoder.norms[len(found)](tokens))
    return torch.cat(found, dim=-1)


def stream(encoder: Encoder, shown: Tensor, *, without: tuple[int, ...] = ()) -> dict[int, Tensor]:
    """Return the tokens of each tubelet, encoded one by one, except for those in ``without``."""
    spec = ClipSpec(frames=2 * STEPS, frames_per_step=2, cache_shape=entry_shape(encoder.config))
    cache, one, found = EncoderCache(spec), CausalStepEncoder(encoder, STEPS), {}
    for step, tubelet in enumerate(shown.split(2, dim=1)):
        if step not in without:
            entries, positions = torch.from_numpy(cache.entries), torch.from_numpy(cache.positions(step))
            found[step], entry = one(tubelet, entries, positions)
            cache.store(step, entry[0].numpy())
    return found


def test_clip_of_the_window_equals_the_official_blocks_with_a_block_causal_mask(encoder: Encoder) -> None:
    shown = clips(STEPS)
    expected = masked(encoder, shown, STEPS)
    torch.testing.assert_close(CausalEncoder(encoder, STEPS)(shown), expected, atol=1e-5, rtol=0)
    assert (encoder(shown) - expected).abs().max() > 0.1, "two-way attention is another function"


def test_first_tubelet_equals_the_official_still(encoder: Encoder) -> None:
    shown = clips(STEPS)
    found = CausalEncoder(encoder, STEPS)(shown)[:, :TOKENS]
    torch.testing.assert_close(found, encoder(shown[:, :2]), atol=1e-5, rtol=0)


def test_steps_with_a_cache_equal_one_pass_over_the_whole_stream(encoder: Encoder) -> None:
    shown = clips(LENGTH)
    expected = CausalEncoder(encoder, STEPS)(shown).split(TOKENS, dim=1)
    for step, tokens in stream(encoder, shown).items():
        torch.testing.assert_close(tokens, expected[step], atol=1e-5, rtol=0)


def test_relative_rotation_makes_a_long_stream_equal_to_a_mask_of_windows(encoder: Encoder) -> None:
    """The rotation of V-JEPA 2.1 depends on differences of positions only, that of V-JEPA 2 does not."""
    shown = clips(4)
    difference = (CausalEncoder(encoder, STEPS)(shown) - masked(encoder, shown, STEPS)).abs().max()
    if encoder.config.pairing == "interleaved":
        assert difference < 1e-4
    else:
        assert difference > 1e-3


def test_step_that_is_missing_is_masked(encoder: Encoder) -> None:
    """Without its predecessor a tubelet attends to the one before it, at its position."""
    shown = clips(3)
    found = stream(encoder, shown, without=(1,))
    own = encoder._embed(torch.cat([shown[:, :2], shown[:, 4:]], dim=1))
    ids = torch.cat([torch.arange(TOKENS), 2 * TOKENS + torch.arange(TOKENS)])
    times = torch.arange(2 * TOKENS) // TOKENS
    mask = torch.where(times[:, None] >= times[None], 0.0, -torch.inf)
    outputs = list[Tensor]()
    for index, block in enumerate(encoder.blocks):
        own = block(own, encoder.rope.at(ids), mask)
        if index in encoder.config.taps:
            outputs.append(encoder.norms[len(outputs)](own))
    torch.testing.assert_close(found[2], torch.cat(outputs, dim=-1)[:, TOKENS:], atol=1e-5, rtol=0)


def test_later_frames_do_not_change_a_tubelet(encoder: Encoder) -> None:
    shown = clips(LENGTH)
    changed = shown.clone()
    changed[:, 8:] = 0
    one = CausalEncoder(encoder, STEPS)
    before, after = one(shown).split(TOKENS, dim=1), one(changed).split(TOKENS, dim=1)
    torch.testing.assert_close(before[3], after[3], atol=0, rtol=0)
    assert (before[4] - after[4]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "steps", "reason"),
    [
        ({"table": True}, 3, "export.option_not_applicable"),
        ({}, 1, "export.invalid_clip_length"),
        ({}, 5, "export.invalid_clip_length"),
    ],
)
def test_encoder_that_cannot_be_causal_is_rejected(fields: dict[str, Any], steps: int, reason: str) -> None:
    config = TINY["vjepa2"].config
    assert isinstance(config, VJEPA2Config)
    with pytest.raises(JepaExportError, check=code(reason)):
        check_causal("vjepa2", replace(config.encoder, **fields), steps)


def test_clip_with_half_a_tubelet_is_rejected(encoder: Encoder) -> None:
    with pytest.raises(JepaExportError, check=code("teacher.shape")):
        CausalEncoder(encoder, STEPS)(draw(1, 3, 3, PX, PX))
