"""The published models: sizes, settings, and inputs."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch.nn.functional import conv3d

from jepa_export.errors import JepaExportError
from jepa_export.teachers.family import FAMILY
from jepa_export.teachers.layers import PatchEmbedding, Sizes
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.rope import Rope, grid_positions
from jepa_export.teachers.vjepa2 import VJEPA2Config
from tests.errors import code
from tests.export.teachers.tiny import TINY, draw

# Encoder parameters in millions, as published.
PUBLISHED = {
    "vjepa2_vitl_256": 300,
    "vjepa2_vith_256": 600,
    "vjepa2_vitg_256": 1000,
    "vjepa2_vitg_384": 1000,
    "vjepa2_1_vitb_384": 80,
    "vjepa2_1_vitl_384": 300,
    "vjepa2_1_vitg_384": 1000,
    "vjepa2_1_vitG_384": 2000,
    "vjepa2_ac_vitg_256": 1000,
    "lewm": 5,
    "ijepa_vith14_224": 630,
    "ijepa_vith16_448": 630,
    "ijepa_vitg16_224": 1000,
}


@pytest.mark.parametrize("name", sorted(FAMILY.keys() - TINY.keys()))
def test_models_have_their_published_size(name: str) -> None:
    with torch.device("meta"):
        model = FAMILY[name].config.build()
    millions = sum(prod(parameter.shape) for parameter in model.encoder.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.12)
    config = FAMILY[name].config
    if isinstance(config, VJEPA2Config):
        assert config.encoder.taps[-1] == config.encoder.depth - 1
        distilled = name in ("vjepa2_1_vitb_384", "vjepa2_1_vitl_384")
        assert (config.output_space, config.output_dim) == (
            ("teacher", 1664) if distilled else ("encoder", config.encoder.output_dim)
        )
    if name == "vjepa2_ac_vitg_256":
        assert sum(prod(p.shape) for p in model.predictor.parameters()) / 1e6 == pytest.approx(300, rel=0.12)
    if name == "lewm":
        assert sum(prod(p.shape) for p in model.parameters()) / 1e6 == pytest.approx(15, rel=0.25)


def test_patch_embedding_equals_its_convolution() -> None:
    embed, clips = PatchEmbedding(6, 8, 4, 5), draw(1, 4, 3, 8, 8)
    weight = draw(5, 3, 2, 4, 4, seed=2)
    embed.proj.weight.copy_(weight.transpose(1, 2).flatten(1))
    expected = conv3d(clips.transpose(1, 2), weight, embed.proj.bias, stride=(2, 4, 4))
    actual = embed(clips.reshape(2, 6, 8, 8)).reshape(1, 8, 5)
    torch.testing.assert_close(actual, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


def test_attention_score_depends_on_the_relative_position() -> None:
    rope = Rope(grid_positions(3, 4), 20, "interleaved")
    query, key = draw(1, 1, 1, 20), draw(1, 1, 1, 20, seed=2)

    def score(one: int, other: int) -> float:
        turned = (rope.at(torch.tensor([at])).apply(head) for at, head in ((one, query), (other, key)))
        return float(torch.mul(*turned).sum())

    # On a grid of width 4: one step in time, down and to the right, from any position.
    assert score(0, 21) == pytest.approx(score(16, 37), abs=1e-5)
    assert score(0, 21) == pytest.approx(score(6, 27), abs=1e-5)
    assert score(0, 21) != pytest.approx(score(0, 22), abs=1e-3)


def test_pairings_of_frequencies_differ() -> None:
    tiled, interleaved = (Rope(grid_positions(2, 2), 20, kind) for kind in ("tiled", "interleaved"))
    assert (tiled.cos - interleaved.cos).abs().max() > 0.1
    assert torch.equal(tiled.cos[:, 18:], torch.ones(8, 2))


def test_positions_are_stretched_to_the_span() -> None:
    assert grid_positions(1, 4, span=16)[-1].tolist() == [0.0, 15.0, 15.0]


@pytest.mark.parametrize(("px", "width"), [(40, 8), (32, 6)])
def test_mismatched_sizes_are_named(px: int, width: int) -> None:
    with pytest.raises(JepaExportError, check=code("teacher.sizes")):
        PatchEmbedding(3, px, 16, width)
        Sizes(width=width, depth=1, heads=2, hidden=8)


def test_frames_are_normalized_by_imagenet() -> None:
    frames = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    frames[..., 1] = 255
    out = normalize(frames)
    assert out.shape == (2, 3, 4, 6)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    torch.testing.assert_close(out[1, :, 2, 3], torch.tensor(expected), atol=1e-5, rtol=0)
