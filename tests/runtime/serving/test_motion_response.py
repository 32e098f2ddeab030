"""How much of the executed motion an image shows, by the relative pose that the model reads."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jepa_runtime.serving.history import History
from jepa_runtime.serving.motion_response import MotionResponse

LATENT, STEP_S = np.zeros((2, 4), np.float32), 0.3
AHEAD, TURN = np.array([0.5, 0.0]), np.array([0.0, 1.0])


def model(*read: float, names: tuple[str, ...] = ("linear.x", "angular.z"), reads_poses: bool = True) -> Any:
    """Return a model that reads one pose of every image."""
    io = SimpleNamespace(action=SimpleNamespace(names=names), step_s=STEP_S)
    return SimpleNamespace(
        reads_poses=reads_poses,
        manifest=SimpleNamespace(io=io),
        relative_poses=lambda _latents, _goal: np.array([*read, 0.03, 0.02], np.float32),
    )


def response(action: np.ndarray, *read: float) -> float:
    measured = MotionResponse.of(model(*read))
    assert measured is not None
    return measured.measure(LATENT, np.array([action, action]), LATENT)


def test_motion_response_of_motion_as_commanded_is_one() -> None:
    assert response(AHEAD, 0.3, 0.0, 0.0) == pytest.approx(1.0)
    assert response(TURN, 0.0, 0.0, 0.6) == pytest.approx(1.0)


@pytest.mark.parametrize("action", [AHEAD, TURN])
def test_motion_response_of_a_frozen_image_is_none(action: np.ndarray) -> None:
    assert response(action, 0.0, 0.0, 0.0) == pytest.approx(0.0)


def test_motion_response_of_the_opposite_motion_is_negative() -> None:
    assert response(AHEAD, -0.3, 0.0, 0.0) == pytest.approx(-1.0)


def test_motion_response_of_another_motion_is_none() -> None:
    """A blocked robot that is turned by what it touches does not advance."""
    assert response(AHEAD, 0.0, 0.0, 0.3) == pytest.approx(0.0)


def test_motion_response_of_a_motion_that_is_too_small_to_be_read_is_unknown() -> None:
    assert math.isnan(response(0.2 * AHEAD, 0.06, 0.0, 0.0))


def newest_response(reads: dict[int, float], *, steps: int = 3) -> float:
    """Return the response after ``steps`` model steps, in n of which the model reads ``reads[n]`` meters."""
    model_ = model(0.0, 0.0, 0.0)
    model_.relative_poses = lambda latents, _goal: np.array(
        [reads[int(latents[0, 0])], 0.0, 0.0, 0.03, 0.02], np.float32
    )
    measured = MotionResponse.of(model_)
    assert measured is not None

    def past_context(count: int) -> Any:
        context = SimpleNamespace(latents=np.full((1, 2, 4), count, np.float32))
        return SimpleNamespace(context=context, actions=np.array([AHEAD] * count)) if count <= steps else None

    return measured.newest(cast(History, SimpleNamespace(past_context=past_context)), LATENT)


def test_newest_motion_response_notices_a_camera_that_froze_one_step_ago() -> None:
    assert newest_response({1: 0.0, 2: 0.15, 3: 0.30}) == pytest.approx(0.0)


def test_newest_motion_response_of_a_motion_too_small_to_be_read_covers_more_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jepa_runtime.serving.motion_response._VISIBLE_STDS", 8.0)
    assert newest_response({1: 0.0, 2: 0.3, 3: 0.45}) == pytest.approx(1.0)
    assert math.isnan(newest_response({1: 0.0}, steps=1))


@pytest.mark.parametrize(
    "other", [model(reads_poses=False), model(names=("linear.x", "linear.y"))], ids=["no poses", "no drive"]
)
def test_motion_response_of_other_models_is_not_read(other: Any) -> None:
    assert MotionResponse.of(other) is None
