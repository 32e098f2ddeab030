"""The networks of the first-person model."""

from __future__ import annotations

from itertools import pairwise

import torch

from jepa_export.evaluation.compute_cost import parameters
from jepa_recipes.first_person.networks import (
    COLUMNS,
    ROWS,
    TOKENS,
    ActionPredictor,
    FrameEncoder,
    RelativePoseHead,
    create_networks,
    token_positions,
)
from jepa_recipes.first_person.sizes import STUDENT, STUDENTS


def encoder() -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder().eval()


def test_token_positions_are_row_by_row_and_symmetric() -> None:
    grid = token_positions().unflatten(0, (ROWS, COLUMNS))
    torch.testing.assert_close(grid[0, 0], torch.tensor([-1 + 1 / COLUMNS, -1 + 1 / ROWS]))
    torch.testing.assert_close(grid[..., 0], -grid.flip(1)[..., 0])
    torch.testing.assert_close(grid[..., 1], -grid.flip(0)[..., 1])


@torch.no_grad()
def test_encoder_tokens_are_in_the_order_of_the_image() -> None:
    """A change in a corner of the image changes the token of that corner most before tokens are mixed."""
    network = encoder()
    frames = torch.full((2, 72, 96, 3), 128, dtype=torch.uint8)
    frames[1, 60:, 84:] = 255
    network.mix = lambda tokens: tokens  # type: ignore[method-assign]
    tokens = network(frames)
    assert (tokens[1] - tokens[0]).norm(dim=-1).argmax() == TOKENS - 1


@torch.no_grad()
def test_encoder_without_positions_is_equivariant_to_permutations() -> None:
    network, order = encoder(), torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(2, TOKENS, STUDENT.dim)
    with_positions = network.mix(tokens[:, order]) - network.mix(tokens)[:, order]
    network.positions.zero_()
    without = network.mix(tokens[:, order]) - network.mix(tokens)[:, order]
    assert without.abs().max() < 1e-5 < 1e-2 < with_positions.abs().max()


@torch.no_grad()
def test_encoder_positions_are_not_added_to_the_tokens() -> None:
    """With attention that outputs nothing, positions change nothing."""
    network = encoder()
    for block in network.blocks:
        block.attention.output.weight.zero_()
        block.attention.output.bias.zero_()
    tokens = torch.randn(1, TOKENS, STUDENT.dim)
    before = network.mix(tokens)
    network.positions.mul_(10)
    torch.testing.assert_close(network.mix(tokens), before)


@torch.no_grad()
def test_relative_pose_head_matches_equal_tokens() -> None:
    torch.manual_seed(0)
    head = RelativePoseHead()
    head.key.load_state_dict(head.query.state_dict())
    latent = torch.randn(1, TOKENS, STUDENT.dim)
    order = torch.randperm(TOKENS)
    found = head.match(latent, latent[:, order])[..., :TOKENS].argmax(-1)
    assert (order[found] == torch.arange(TOKENS)).all()
    assert head(latent, latent[:, order]).shape == (1, 8)


@torch.no_grad()
def test_relative_pose_head_reads_each_pair_by_itself() -> None:
    torch.manual_seed(0)
    head = RelativePoseHead()
    first, second = torch.randn(2, 5, TOKENS, STUDENT.dim)
    torch.testing.assert_close(head(first, second)[3:4], head(first[3:4], second[3:4]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_predictor_begins_as_the_identity_and_then_depends_on_both_actions() -> None:
    torch.manual_seed(0)
    predictor = ActionPredictor()
    latent, still, fast = torch.randn(2, TOKENS, STUDENT.dim), torch.zeros(2, 2), torch.ones(2, 2)
    torch.testing.assert_close(predictor(latent, still, fast), latent)
    for parameter in predictor.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    results = [predictor(latent, *actions) for actions in ((still, still), (still, fast), (fast, still))]
    assert all((one - other).abs().max() > 1e-3 for one in results for other in results if one is not other)


@torch.no_grad()
def test_larger_sizes_have_more_parameters_and_the_same_outputs() -> None:
    frames = torch.zeros((2, 72, 96, 3), dtype=torch.uint8)
    counts = []
    for size in STUDENTS.values():
        networks = create_networks(size).eval()
        latents = networks.encoder(frames)
        assert latents.shape == (2, TOKENS, size.dim)
        assert networks.head(latents, latents).shape == (2, 8)
        actions = torch.zeros(2, 2)
        assert networks.predictor(latents, actions, actions).shape == latents.shape
        counts.append([parameters(part) for part in (networks.encoder, networks.head, networks.predictor)])
    assert list(STUDENTS) == ["small", "base", "large"] and STUDENT is STUDENTS["base"]
    for smaller, larger in pairwise(counts):
        assert all(few < many for few, many in zip(smaller, larger, strict=True))
