"""A model that reads exact poses, from a camera whose images show nothing but the camera's pose."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.model import Futures, RelativePose
from jepa_runtime.model.rollouts import RolloutRequest
from jepa_runtime.model.world_model import StepOutcome, step_outcome
from jepa_runtime.util.poses import compose, relative
from jepa_sim.worlds.first_person import camera
from tests.runtime import fakes

HEIGHT, WIDTH, STEP_S, HORIZON, NUM_SAMPLES = 72, 96, 0.3, 4, 16
# Gray level of 0 and of 1 m; of a direction, of its cosine 0 and 1.
_ZERO, _PER_M, _MIDDLE, _PER_UNIT = 10.0, 10.0, 128.0, 100.0

Floats = NDArray[np.float32]


def show_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cameras show their poses: x, y, cosine and sine of the heading as gray levels of four bands."""

    def render(_layouts: Any, poses: NDArray[np.float64], _which: Any, **_: Any) -> NDArray[np.float64]:
        levels = np.stack(
            [
                *(_ZERO + _PER_M * poses[:, :2]).T,
                _MIDDLE + _PER_UNIT * np.cos(poses[:, 2]),
                _MIDDLE + _PER_UNIT * np.sin(poses[:, 2]),
            ],
            axis=1,
        )
        bands = np.repeat(levels, HEIGHT // 4, axis=1)[:, :, None, None]
        return np.broadcast_to(bands, (len(poses), HEIGHT, WIDTH, 3))

    monkeypatch.setattr(camera, "render", render)


class PoseModel:
    """The latent of an image is the pose that it shows: x, y, cosine and sine."""

    engine, device, precision, num_samples = "fake", "CPU", "fp32", NUM_SAMPLES
    latent_space, energy_space, reads_poses = "a" * 64, "b" * 64, True

    def __init__(self) -> None:
        low, high = (-0.2, -1.5), (0.8, 1.5)
        self.manifest = fakes.manifest(low=low, high=high, max_norm=None)
        self.manifest.io.action.names, self.manifest.io.action.units = (
            ("linear.x", "angular.z"),
            ("m/s", "rad/s"),
        )
        self.manifest.io.frame = SimpleNamespace(height=HEIGHT, width=WIDTH, rate_hz=30.0)
        self.manifest.io.latent = SimpleNamespace(tokens=1, dim=4, dtype="float32")
        self.manifest.io.step_s, self.manifest.horizon, self.manifest.num_samples = (
            STEP_S,
            HORIZON,
            NUM_SAMPLES,
        )
        self.manifest.error_bounds = tuple(0.05 * step for step in range(1, HORIZON + 1))
        self.manifest.goal_threshold = 0.4
        self.bundle = SimpleNamespace(sha256="0" * 64, path="pose model")
        self.timings = dict.fromkeys(("preprocess", "encode", "predict", "energy", "relative_pose"), 0.0)
        self.device_timings: dict[str, float] = {}

    def create_cache(self) -> None:
        """The encoder is not causal."""

    def encode(self, frame: NDArray[np.uint8]) -> Floats:
        # The camera rounds down.
        levels = frame.reshape(4, -1).mean(axis=1) + 0.5
        x, y = (levels[:2] - _ZERO) / _PER_M
        return np.array([[x, y, *(levels[2:] - _MIDDLE) / _PER_UNIT]], np.float32)

    def predict(
        self,
        actions: Floats,
        *,
        latents: Floats,
        history_actions: Floats,
        history_states: None = None,
        goal: Floats | None = None,
    ) -> Futures:
        futures = np.stack([_driven(latents[-1], each) for each in actions])
        energies = None if goal is None else self.energy(futures, goal)
        return Futures(futures, actions, energies, np.full(actions.shape[1], 0.05, np.float32))

    def advance(self, latents: Floats, history_actions: Floats, actions: Floats) -> tuple[Floats, Floats]:
        return np.concatenate([latents, _driven(latents[-1], actions)])[-1:], history_actions

    def predict_each(self, requests: list[RolloutRequest]) -> list[Floats]:
        return [_driven(latents[-1], actions) for latents, _, actions, _ in requests]

    def outcome(
        self,
        previous: Floats,
        history_actions: Floats,
        action: Floats,
        observed: Floats,
        history_states: None = None,
    ) -> StepOutcome:
        predicted = _driven(previous[-1], np.asarray(action)[None])[0]
        return step_outcome(previous[-1].ravel(), predicted.ravel(), observed.ravel())

    def surprise(self, *known: Any, **states: Any) -> float:
        return self.outcome(*known, **states).surprise

    def energy(self, latents: Floats, goal: Floats) -> Floats:
        """Return the time to drive to the goal and to turn there."""
        poses = self.relative_poses(latents, goal)
        distance = np.hypot(poses[..., 0], poses[..., 1])
        return (distance / 0.6 + np.abs(poses[..., 2]) / 1.2 + 0.01).astype(np.float32)

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        flat = latents.reshape(-1, 1, 4)
        found = [(*relative(_pose(each), _pose(goal)), 0.03, 0.02) for each in flat]
        return np.array(found, np.float32).reshape(*latents.shape[:-2], 5)

    def goal_pose(self, goal: Floats, *, latent: Floats) -> RelativePose:
        return RelativePose(*self.relative_poses(latent, goal).tolist())


class SightedModel(PoseModel):
    """Is certain only of poses that images show: within 2.5 m, and turned by at most 1.5 rad.

    Args:
        images: Number of images after which it is certain only within 0.3 m.
    """

    def __init__(self, images: float = math.inf) -> None:
        super().__init__()
        self._images = images

    def encode(self, frame: NDArray[np.uint8]) -> Floats:
        self._images -= 1
        return super().encode(frame)

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        poses = super().relative_poses(latents, goal)
        is_near = np.hypot(poses[..., 0], poses[..., 1]) < (2.5 if self._images >= 0 else 0.3)
        is_known = is_near & (np.abs(poses[..., 2]) < 1.5)
        poses[..., 3:] = np.where(is_known[..., None], poses[..., 3:], 5.0)
        return poses


def _pose(latent: Floats) -> NDArray[np.float64]:
    x, y, cos, sin = latent[0].tolist()
    return np.array([x, y, np.arctan2(sin, cos)])


def _driven(latent: Floats, actions: Floats) -> Floats:
    """Return the latents [H, 1, 4] after each of the actions [H, 2]."""
    pose, found = _pose(latent), []
    for speed, turn in np.asarray(actions, float) * STEP_S:
        pose = compose(pose, np.array([speed * np.cos(turn / 2), speed * np.sin(turn / 2), turn]))
        found.append([[pose[0], pose[1], np.cos(pose[2]), np.sin(pose[2])]])
    return np.array(found, np.float32)
