"""Which pairs of latents the energy is trained on."""

from __future__ import annotations

import math

import pytest
import torch

from jepa_recipes.two_token.temporal_distance import ends

# Ten positions in a row, one step apart, and a wall in the middle with a detour of forty steps.
PLACES = torch.arange(10.0)
APART = (PLACES[:, None] - PLACES).abs()
ACROSS = (PLACES[:, None] < 5) != (PLACES < 5)
PAIRS = 8000


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    distances = torch.where(ACROSS, APART + 40, APART)
    return ends(torch.zeros(PAIRS, dtype=torch.long), PLACES[None, :, None], distances[None].half())


def test_half_of_the_pairs_are_close_to_and_on_both_sides_of_the_wall(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    here, there = (ends[1::2] for ends in drawn)
    assert ACROSS[here, there].float().mean() > 0.95
    assert APART[here, there].mean() < APART[ACROSS].mean() - 1


def test_quarter_of_the_pairs_are_near_and_an_eighth_are_identical(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    here, there = drawn
    assert APART[here[2::4], there[2::4]].mean() < 0.6
    assert torch.equal(here[::8], there[::8])
    assert float(APART[here[4::8], there[4::8]].mean()) == pytest.approx(float(APART.mean()), abs=0.3)


def test_unreachable_position_does_not_count_as_the_farthest() -> None:
    distances = torch.where(ACROSS, torch.tensor(math.inf), APART)
    here, there = ends(torch.zeros(PAIRS, dtype=torch.long), PLACES[None, :, None], distances[None].half())
    assert ACROSS[here[1::2], there[1::2]].float().mean() < 0.05
