"""Synthetic drives: a latent is a position in the plane, and the energy of two is their distance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.routes.manifest import RouteModel
from jepa_runtime.routes.recorder import RouteRecorder
from jepa_runtime.routes.route import Floats, Route

PERIOD_NS = 100_000_000
MODEL = RouteModel(
    model_id="plane",
    version="1.0.0",
    latent_space="a" * 64,
    energy_space="",
    tokens=1,
    dim=2,
    step_s=0.2,
    goal_threshold=0.05,
    frame_width=8,
    frame_height=6,
    action_names=("linear.x", "linear.y"),
    action_units=("m/s", "m/s"),
)


def score(latents: Floats, goal: Floats) -> Floats:
    energies: Floats = np.linalg.norm(latents - goal, axis=(1, 2)).astype(np.float32)
    return energies


def latent_at(position: NDArray[np.floating]) -> Floats:
    return np.asarray(position, np.float32).reshape(1, 2)


def image_at(position: NDArray[np.floating]) -> NDArray[np.uint8]:
    image = np.zeros((12, 16, 3), np.uint8)
    image[..., 0], image[..., 1] = (int(value * 50) % 256 for value in position)
    return image


def line(length_m: float = 3.0, *, speed: float = 0.5) -> NDArray[np.float64]:
    """Return positions [n, 2] along a straight line, one for each period."""
    steps = round(length_m / speed / (PERIOD_NS / 1e9))
    return np.stack([np.linspace(0, length_m, steps + 1), np.zeros(steps + 1)], axis=1)


def eight() -> NDArray[np.float64]:
    """Return positions along a figure of eight, which crosses itself in the middle."""
    angle = np.linspace(0.3, 0.3 + 2 * np.pi, 160)[:-6]
    return np.stack([np.sin(angle), np.sin(angle) * np.cos(angle)], axis=1)


def pose_at(position: NDArray[np.floating], yaw: float = 0.0) -> tuple[float, float, float]:
    return float(position[0]), float(position[1]), yaw


def record(positions: NDArray[np.float64], *, odometry: bool = False) -> Route:
    recorder = RouteRecorder(MODEL, score)
    for index, position in enumerate(positions):
        following = positions[min(index + 1, len(positions) - 1)]
        recorder.add(
            stamp_ns=index * PERIOD_NS,
            latent=latent_at(position),
            image=image_at(position),
            command=(following - position) / (PERIOD_NS / 1e9),
            pose=pose_at(position) if odometry else None,
        )
    return recorder.finish("plane")


def turning() -> Route:
    """Return a route of 1 m and then a turn on the spot: key frames every 0.1 m, and every 0.4 rad."""
    poses = [(0.1 * step, 0.0, 0.0) for step in range(11)]
    poses += [(1.0, 0.0, 0.4 * step) for step in range(1, 9)]
    route = record(np.stack([np.linspace(0.0, 3.0, 4 * len(poses)), np.zeros(4 * len(poses))], axis=1))
    frames = zip(route.key_frames, poses, strict=False)
    return replace(route, key_frames=tuple(replace(frame, pose=pose) for frame, pose in frames))
