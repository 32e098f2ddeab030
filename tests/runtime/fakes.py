"""Fakes for tests in which time or failure matters: a model with a configurable duration."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, replace
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.model.world_model import Futures, StepOutcome, step_outcome
from jepa_runtime.sources.base import Frame

TOKENS, DIM, HORIZON, NUM_SAMPLES, STEP_S = 2, 4, 3, 5, 0.2


def manifest(
    *,
    low: tuple[float, ...] = (-1.0, -1.0),
    high: tuple[float, ...] = (1.0, 1.0),
    max_norm: float | None = 1.0,
    history_size: int = 1,
) -> SimpleNamespace:
    """The part of a manifest that the pipeline reads."""
    names = ["linear.x", "linear.y", "angular.z"][: len(low)]
    action = SimpleNamespace(
        names=names,
        units=["m/s", "m/s", "rad/s"][: len(low)],
        low=list(low),
        high=list(high),
        max_norm=max_norm,
        is_rate=True,
        max_plausible=1000 * max(map(abs, (*low, *high))),
    )
    io = SimpleNamespace(
        frame=SimpleNamespace(height=16, width=16, rate_hz=30.0),
        action=action,
        clip=None,
        encoder_frames=1,
        frame_interval_s=STEP_S,
        state=None,
        step_s=STEP_S,
        latent=SimpleNamespace(tokens=TOKENS, dim=DIM, dtype="float32"),
    )
    return SimpleNamespace(
        model_id="fake",
        version="1.2.3",
        release_seq=1,
        trained=False,
        io=io,
        graphs=SimpleNamespace(energy=[]),
        history_size=history_size,
        action_size=len(names),
        state_size=0,
        takes_actions=low != high,
        horizon=HORIZON,
        num_samples=NUM_SAMPLES,
        error_bounds=tuple(0.5 * step for step in range(1, HORIZON + 1)),
        normal_scores=None,
        surprise_threshold=0.5,
        goal_threshold=0.1,
    )


class FakeModel:
    """The mean of a frame is its latent; an action's first component adds to it, step by step."""

    engine, device, precision, num_samples = "fake", "CPU", "fp32", NUM_SAMPLES
    latent_space = "fake"
    energy_space = ""

    def __init__(self, *, encode_s: float = 0.0, history_size: int = 1) -> None:
        self.manifest = manifest(history_size=history_size)
        self.bundle = SimpleNamespace(sha256="0" * 64, path="fake")
        self.device_timings: dict[str, float] = {}
        self.timings = {"preprocess": 0.0, "encode": 0.0, "predict": 0.0, "energy": 0.0, "relative_pose": 0.0}
        self.threads = {threading.current_thread().name}
        self.closed = False
        self.surprises = 0
        self.pose: RelativePose | None = None
        self._encode_s = encode_s

    def encode_clip(
        self, images: Sequence[NDArray[np.uint8]], cache: None = None, step: int = 0
    ) -> NDArray[np.float32]:
        """Encode the one image of a model that reads no clips."""
        (image,) = images
        return self.encode(image)

    def create_cache(self) -> None:
        """The encoder is not causal."""

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.threads.add(threading.current_thread().name)
        if frame.ndim != 3:
            raise ValueError("not an image")
        time.sleep(self._encode_s)
        self.timings["encode"] = self._encode_s * 1e3
        return np.full((TOKENS, DIM), frame.mean(), np.float32)

    def predict(
        self,
        actions: NDArray[np.float32],
        *,
        latents: NDArray[np.float32],
        history_actions: NDArray[np.float32],
        history_states: None = None,
        goal: NDArray[np.float32] | None = None,
    ) -> Futures:
        assert latents.shape == (self.manifest.history_size, TOKENS, DIM)
        assert history_actions.shape == (self.manifest.history_size - 1, 2)
        self.timings["predict"] = 0.01
        moved = latents[-1] + np.cumsum(actions[:, :, 0], axis=1)[..., None, None]
        return Futures(
            latents=moved.astype(np.float32),
            actions=actions,
            energies=None if goal is None else self.energy(moved, goal),
            error_bounds=np.arange(1, HORIZON + 1, dtype=np.float32),
        )

    def advance(
        self,
        latents: NDArray[np.float32],
        history_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        for action in actions:
            latents = np.concatenate([latents[1:], latents[-1:] + action[0]])
            history_actions = np.concatenate([history_actions, action[None]])[1:]
        return latents, history_actions

    def predict_each(self, requests: list[tuple[NDArray[np.float32], ...]]) -> list[NDArray[np.float32]]:
        return [
            FakeModel.predict(self, actions[None], latents=latents, history_actions=history_actions).latents[
                0
            ]
            for latents, history_actions, actions, _ in requests
        ]

    def energy(self, latents: NDArray[np.float32], goal: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.mean((latents - goal) ** 2, axis=(-2, -1))

    @property
    def reads_poses(self) -> bool:
        return self.pose is not None

    def goal_pose(
        self, goal: NDArray[np.float32], *, latent: NDArray[np.float32] | None = None
    ) -> RelativePose | None:
        return self.pose

    def relative_poses(self, latents: NDArray[np.float32], goal: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.pose is not None
        return np.tile(np.float32(astuple(self.pose)), (*latents.shape[:-2], 1))

    def surprise(
        self,
        previous: NDArray[np.float32],
        history_actions: NDArray[np.float32],
        action: NDArray[np.float32],
        arrived: NDArray[np.float32],
        history_states: None = None,
    ) -> float:
        self.surprises += 1
        return float(np.sqrt(np.mean((previous[-1] + action[0] - arrived) ** 2)))

    def outcome(
        self,
        previous: NDArray[np.float32],
        history_actions: NDArray[np.float32],
        action: NDArray[np.float32],
        arrived: NDArray[np.float32],
        history_states: None = None,
    ) -> StepOutcome:
        """Like a :class:`WorldModel`, except for the surprise that a test sets."""
        before = previous[-1].ravel()
        result = step_outcome(before, before + action[0], arrived.ravel())
        return replace(result, surprise=self.surprise(previous, history_actions, action, arrived))

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed = True


def frame(sequence: int, value: int = 0, *, period_s: float = 1 / 30) -> Frame:
    """A small gray frame."""
    image = np.full((8, 8, 3), value, np.uint8)
    return Frame(image, 1_000_000_000 + round(sequence * period_s * 1e9), "camera", sequence)
