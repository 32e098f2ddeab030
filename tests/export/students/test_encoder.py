"""The students' encoder: frames become tokens of unit scale, each frame separately."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import (
    PIXEL_MEAN,
    PIXEL_STD,
    Encoder,
    EncoderConfig,
    PatchEmbedding,
    TeacherHead,
)
from jepa_export.students.family import create
from tests.errors import code

ENCODER = EncoderConfig(px=32, patch=16, width=32, depth=1, heads=2, tokens=3, dim=16)
SCALE = (1.25, 1.25)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@torch.no_grad()
def test_patch_embedding_normalizes_the_pixels() -> None:
    embed = PatchEmbedding(ENCODER)
    frames = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    normal = (frames.double() - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    patches = [normal[:, top : top + 16, left : left + 16].flatten(1) for top in (0, 16) for left in (0, 16)]
    expected = nn.functional.linear(
        torch.stack(patches, dim=1), embed.proj.weight.double(), embed.proj.bias.double()
    )
    close(embed(frames).double(), expected, 1e-4)


@torch.no_grad()
def test_encoder_maps_each_frame_separately_to_unit_scale_tokens() -> None:
    encoder = Encoder(ENCODER).eval()
    frames = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    latents = encoder(frames)
    assert latents.shape == (3, ENCODER.tokens, ENCODER.dim)
    close(latents, torch.cat([encoder(frame[None]) for frame in frames]))
    close(latents.mean(-1), torch.zeros(3, ENCODER.tokens))
    close(latents.std(-1, unbiased=False), torch.ones(3, ENCODER.tokens), 1e-3)


@torch.no_grad()
def test_patch_position_matters() -> None:
    encoder = Encoder(ENCODER).eval()
    frame = torch.randint(0, 256, (1, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert (encoder(frame) - encoder(frame.roll(16, dims=2))).abs().max() > 1e-4


def test_attention_heads_fit_int8_attention() -> None:
    wide = Encoder(replace(ENCODER, width=192))
    assert wide.blocks[0].out.in_features == wide.pool.out.in_features == 2 * 64
    assert wide(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape == (1, ENCODER.tokens, ENCODER.dim)
    assert Encoder(ENCODER).blocks[0].out.in_features == ENCODER.width


def test_teacher_head_gives_a_token_per_position_of_the_teacher_grid() -> None:
    head = TeacherHead(ENCODER, teacher_side=3, teacher_dim=24)
    assert head(torch.zeros(2, ENCODER.tokens, ENCODER.dim)).shape == (2, 9, 24)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"px": 40}, r"px must be a multiple of the patch \(16\), got 40"),
        ({"px": 0}, r"px must be a multiple of the patch \(16\), got 0"),
        ({"px": -16}, r"px must be a multiple of the patch \(16\), got -16"),
        ({"width": 36}, r"width must be a multiple of 4 x heads \(8\), got 36"),
        ({"tokens": 0}, "tokens must be between 1 and 16, got 0"),
        ({"tokens": 17}, "tokens must be between 1 and 16, got 17"),
    ],
)
def test_invalid_encoder_size_is_named(changed: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(ENCODER, **changed)


@pytest.mark.parametrize("px", [0, -16])
def test_frame_without_pixels_is_rejected(px: int) -> None:
    with pytest.raises(JepaExportError, check=code("student.sizes")):
        create("vit_ti", px=px, action_scale=SCALE, seed=0).encoder(
            torch.zeros(1, px, px, 3, dtype=torch.uint8)
        )
