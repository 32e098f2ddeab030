"""Rollouts on consecutive frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_recipes.first_person.prediction_losses import STEPS, imagine, prediction_errors

DRIVES, FRAMES = 2, 7


def sums() -> tuple[Tensor, Tensor]:
    """Return latents that grow by the command and a tenth of the one before."""
    commands = torch.arange(DRIVES * FRAMES * 2).float().view(DRIVES, FRAMES, 2).sin()
    growth = commands[:, 1:, 0] + 0.1 * commands[:, :-1, 0]
    latents = torch.cat([torch.zeros(DRIVES, 2), growth.cumsum(1)[:, : FRAMES - 2]], dim=1)
    return latents[..., None, None].expand(-1, -1, 4, 3), commands


def add(latent: Tensor, previous: Tensor, action: Tensor) -> Tensor:
    return latent + (action[:, :1] + 0.1 * previous[:, :1])[..., None]


def test_rollouts_use_the_previous_command_and_the_command_of_each_step() -> None:
    latents, commands = sums()
    errors = prediction_errors(imagine(add, latents, commands), latents)
    torch.testing.assert_close(errors, torch.zeros(STEPS), rtol=0, atol=1e-6)


def test_rollouts_start_at_all_frames_with_a_past_and_a_future() -> None:
    latents, commands = sums()
    imagined = imagine(add, latents, commands)
    drive, frame = imagined.moments
    starts = FRAMES - STEPS - 1
    assert imagined.latents.shape == (STEPS, DRIVES * starts, 4, 3)
    assert drive[0].tolist() == [0] * starts + [1] * starts
    assert frame.T[:starts].tolist() == [[2, 3, 4], [3, 4, 5], [4, 5, 6]]


def test_errors_are_in_standard_deviations_of_the_latents() -> None:
    latents, commands = sums()
    step = 2 * latents.std()
    # A model that is exact but for a constant error of each step.
    errors = prediction_errors(imagine(lambda *inputs: add(*inputs) + step, latents, commands), latents)
    # Smooth L1: the error less one half.
    assert errors.tolist() == pytest.approx([1.5, 3.5, 5.5], rel=1e-4)


def test_smaller_latents_have_no_smaller_errors() -> None:
    latents, commands = sums()
    shrinking = torch.tensor(1.0, requires_grad=True)
    scaled = latents * shrinking
    prediction_errors(imagine(lambda latent, *_: latent, scaled, commands), scaled).sum().backward()
    assert shrinking.grad is not None and abs(shrinking.grad.item()) < 1e-4


def test_true_latents_get_gradients() -> None:
    latents, commands = sums()
    latents = latents.clone().requires_grad_()
    prediction_errors(imagine(lambda latent, *_: 0 * latent, latents, commands), latents).sum().backward()
    assert latents.grad is not None and (latents.grad[:, 2:].abs().sum((0, 2, 3)) > 0).all()
