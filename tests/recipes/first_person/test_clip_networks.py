"""The encoder of clips and the predictor of hidden tokens."""

from __future__ import annotations

import pytest
import torch

from jepa_recipes.first_person.clip_networks import FRAMES, ClipEncoder, MaskedPredictor, in_clip
from jepa_recipes.first_person.networks import COLUMNS, ROWS, TOKENS, FrameEncoder
from jepa_recipes.first_person.sizes import NetworkSize

SIZE = NetworkSize(dim=32, encoder_depth=2, encoder_heads=2, predictor_depth=1)
VISIBLE = torch.tensor([[0, 1, 2, 13, 25], [30, 31, 43, 44, 71]])


@pytest.fixture
def encoder() -> ClipEncoder:
    torch.manual_seed(0)
    return ClipEncoder(FrameEncoder(SIZE)).eval()


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randint(0, 256, (2, FRAMES, 72, 96, 3), dtype=torch.uint8)


@torch.no_grad()
def test_clip_encoder_encodes_a_single_frame_as_the_frame_encoder(
    encoder: ClipEncoder, clips: torch.Tensor
) -> None:
    torch.testing.assert_close(encoder(clips[:, :1]), encoder.frame(clips[:, 0]))


@torch.no_grad()
def test_clip_encoder_latents_depend_on_the_other_frames_and_on_their_order(
    encoder: ClipEncoder, clips: torch.Tensor
) -> None:
    latents, reversed_latents = encoder(clips), encoder(clips.flip(1))
    assert latents.shape == (2, FRAMES * TOKENS, SIZE.dim)
    alone = encoder.frame(clips[:, 0])
    assert (latents[:, :TOKENS] - alone).abs().max() > 1e-2
    backwards = reversed_latents.unflatten(1, (FRAMES, TOKENS)).flip(1).flatten(1, 2)
    assert (latents - backwards).abs().max() > 1e-2


@torch.no_grad()
def test_clip_encoder_sees_no_pixel_of_a_hidden_token(encoder: ClipEncoder, clips: torch.Tensor) -> None:
    seen = torch.zeros(2, TOKENS, dtype=torch.bool).scatter(1, VISIBLE, True).view(2, 1, ROWS, COLUMNS)
    pixels = seen.repeat_interleave(12, 2).repeat_interleave(8, 3)[..., None]
    changed = torch.where(pixels, clips, 255 - clips)
    latents = encoder(clips, VISIBLE)
    assert latents.shape == (2, FRAMES * VISIBLE.shape[1], SIZE.dim)
    torch.testing.assert_close(encoder(changed, VISIBLE), latents)
    visible_changed = torch.where(pixels, 255 - clips, clips)
    assert (encoder(visible_changed, VISIBLE) - latents).abs().max() > 1e-2


@torch.no_grad()
def test_masked_predictor_predicts_each_hidden_token_from_the_visible_ones() -> None:
    torch.manual_seed(0)
    predictor = MaskedPredictor(SIZE.dim, width=32, depth=1).eval()
    latents, hidden = torch.randn(2, FRAMES * 5, SIZE.dim), torch.tensor([[5, 6, 7], [0, 1, 2]])
    predicted = predictor(latents, VISIBLE, hidden)
    assert predicted.shape == (2, FRAMES * 3, SIZE.dim)
    torch.testing.assert_close(
        predictor(latents, VISIBLE, hidden.flip(1)).unflatten(1, (FRAMES, 3)).flip(2).flatten(1, 2), predicted
    )
    assert torch.cdist(predicted[0], predicted[0]).fill_diagonal_(1).min() > 1e-3
    assert (predictor(latents + torch.randn_like(latents), VISIBLE, hidden) - predicted).abs().max() > 1e-3


def test_in_clip_numbers_tokens_frame_by_frame() -> None:
    assert in_clip(torch.tensor([[3, 5]]), 3).tolist() == [[3, 5, 75, 77, 147, 149]]
