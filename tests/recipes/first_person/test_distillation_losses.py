"""What a teacher teaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_recipes.first_person.distillation_losses import latent_loss, reading_loss
from jepa_recipes.first_person.networks import LOG_DISTANCE, LOG_SCALES


def reading(*, distance: float = 1.0, heading: float = 0.4, log_scale: float = -1.0) -> Tensor:
    values = [0.8, 0.6, math.log(distance + 0.15), math.cos(heading), math.sin(heading), *[log_scale] * 3]
    return torch.tensor([values])


def test_latent_loss_is_zero_for_the_teachers_latents_and_grows_with_the_difference() -> None:
    latents, noise = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8)
    losses = [float(latent_loss(latents + size * noise, latents)) for size in (0.0, 0.1, 1.0)]
    assert losses[0] == pytest.approx(0, abs=1e-6) and losses[0] < losses[1] < losses[2]


def test_reading_loss_is_least_for_the_teachers_reading_and_expected_error() -> None:
    taught, least = reading(), float(reading_loss(reading(), reading()))
    assert least == pytest.approx(0, abs=1e-4)
    for other in (
        reading(distance=1.3),
        reading(heading=0.6),
        reading(log_scale=-0.5),
        reading(log_scale=-1.5),
    ):
        assert float(reading_loss(other, taught)) > 0.01


def test_reading_loss_of_a_difference_is_small_where_the_teacher_is_uncertain() -> None:
    certain, uncertain = reading(log_scale=-2.0), reading(log_scale=0.5)
    shifted = torch.zeros_like(certain)
    shifted[:, LOG_DISTANCE] = 0.2
    assert reading_loss(certain + shifted, certain) > 5 * reading_loss(uncertain + shifted, uncertain)


def test_reading_loss_ignores_the_direction_to_a_frame_at_the_same_place() -> None:
    near, far = reading(distance=0.001), reading(distance=1.0)
    turned = torch.tensor([[0.0, -1.0] + [0.0] * 6])
    assert reading_loss(near + turned, near) < 0.01 < reading_loss(far + turned, far)


def test_reading_loss_is_the_divergence_of_laplace_distributions() -> None:
    """Compare it with torch's, for a difference of the distance alone."""
    taught, read = reading(log_scale=-1.0), reading(log_scale=-0.3)
    read[:, LOG_DISTANCE] += 0.5
    laplace = torch.distributions.Laplace
    expected = torch.zeros(())
    for offset in (0.0, 0.5, 0.0):
        one = laplace(torch.tensor(0.0), taught[0, LOG_SCALES][0].exp())
        other = laplace(torch.tensor(offset), read[0, LOG_SCALES][0].exp())
        expected = expected + torch.distributions.kl_divergence(one, other)
    assert float(reading_loss(read, taught)) == pytest.approx(float(expected), abs=1e-3)
