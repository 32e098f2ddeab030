"""Each loss compared with its formula written as loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_recipes.two_token import losses


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def squared(one: Tensor, other: Tensor) -> float:
    return float(((one.double() - other.double()) ** 2).sum())


def nats(scores: list[float], right: int) -> float:
    """Return the cross-entropy of selecting ``right`` by these scores."""
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores)) - scores[right]


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_contrast_is_the_cross_entropy_of_picking_the_positive(temperature: float) -> None:
    anchors, positives, negatives = random(5, 3), random(5, 3, seed=1), random(7, 3, seed=2)
    expected = [
        nats(
            [-squared(anchor, positive) / temperature]
            + [-squared(anchor, negative) / temperature for negative in negatives],
            right=0,
        )
        for anchor, positive in zip(anchors, positives, strict=True)
    ]
    actual = losses.contrast(anchors, positives, negatives, temperature)
    assert actual.item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_predictive_contrast_is_the_cross_entropy_of_picking_the_actual_frame(temperature: float) -> None:
    groups, runs, steps, dim = 2, 3, 4, 5
    predicted, arrived = random(groups, runs, steps, dim), random(groups, runs, steps + 1, dim, seed=1)
    expected = []
    for group in range(groups):
        frames = [(run, time) for run in range(runs) for time in range(steps + 1)]
        for run in range(runs):
            for step in range(steps):
                scores = [
                    -squared(predicted[group, run, step], arrived[group, other, time]) / temperature
                    for other, time in frames
                ]
                expected.append(nats(scores, right=frames.index((run, step + 1))))
    actual = losses.predictive_contrast(predicted, arrived, temperature)
    assert actual.item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_perfect_prediction_picks_its_own_frame_and_a_late_one_does_not() -> None:
    arrived = random(2, 3, 5, 8) * 3
    perfect = losses.predictive_contrast(arrived[:, :, 1:], arrived, 0.05)
    late = losses.predictive_contrast(arrived[:, :, :-1], arrived, 0.05)
    assert perfect < 1e-3
    assert late > 10


def test_frames_of_other_layouts_do_not_count_as_negatives() -> None:
    arrived = random(1, 2, 5, 8)
    twice = torch.cat([arrived, arrived])
    alone = losses.predictive_contrast(arrived[:, :, 1:], arrived, 0.5)
    assert losses.predictive_contrast(twice[:, :, 1:], twice, 0.5).item() == pytest.approx(alone.item())


def test_spread_is_the_hinge_on_each_standard_deviation() -> None:
    latents = random(50, 4) * torch.tensor([0.1, 0.5, 1.0, 3.0])
    deviations = [math.sqrt(np.mean(np.square(column)) + 1e-4) for column in latents.double().numpy().T]
    expected = np.mean([max(0.0, 1 - deviation) for deviation in deviations])
    assert losses.spread(latents).item() == pytest.approx(expected, rel=1e-4)
    assert losses.spread(random(500, 4) * 3).item() == 0
    assert losses.spread(torch.zeros(5, 4)).item() == pytest.approx(0.99)


def test_decorrelation_is_the_squared_covariance_off_the_diagonal() -> None:
    latents = random(40, 4) @ random(4, 4, seed=1)
    covariance = np.cov(latents.double().numpy(), rowvar=False)
    expected = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert losses.decorrelation(latents).item() == pytest.approx(expected, rel=1e-4)


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "contrast": lambda x: losses.contrast(x[0, 0], x[0, 1], x[1, 0].detach(), 0.01),
    "predictive_contrast": lambda x: losses.predictive_contrast(x[:, :, 1:], x, 0.01),
    "spread": lambda x: losses.spread(x.flatten(0, 2)),
    "decorrelation": lambda x: losses.decorrelation(x.flatten(0, 2)),
}


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 100.0])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_even_if_all_latents_coincide(name: str, scale: float) -> None:
    latents = (random(2, 2, 5, 3) * scale).requires_grad_()
    loss = CASES[name](latents)
    loss.backward()
    assert torch.isfinite(loss)
    assert latents.grad is not None and torch.isfinite(latents.grad).all()
