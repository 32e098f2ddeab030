"""Small networks of another project, with and without faults, and recordings for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_export import IMAGENET, ActionSpace, ArrayRecording

PX, TOKENS, DIM, STEP_S = 16, 4, 8, 0.2
ACTIONS = ActionSpace(names=("vx", "vy"), units=("m/s", "m/s"), low=(-1.0, -1.0), high=(1.0, 1.0))


def recording(
    seed: int, *, count: int = 12, px: int = PX, units: tuple[str, str] = ACTIONS.units, known: bool = True
) -> Any:
    """Return frames in which a bright square moves by the action, which the recording states if ``known``."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (count, px, px, 3), np.uint8)
    actions = rng.uniform(-1, 1, (count - 1, 2)).astype(np.float32)
    place = np.full(2, px / 2)
    for index, image in enumerate(images):
        row, column = np.clip(place, 2, px - 3).astype(int)
        image[row - 2 : row + 2, column - 2 : column + 2] = 255
        place = np.clip(place + 4 * actions[min(index, count - 2)], 2, px - 3)
    if not known:
        return ArrayRecording(images, step_s=STEP_S, name=f"run {seed}")
    return ArrayRecording(
        images, actions, action_names=ACTIONS.names, action_units=units, step_s=STEP_S, name=f"run {seed}"
    )


class Encoder(nn.Module):
    """Latents [N, 4, DIM] of images [N, 3, PX, PX]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, PX // 2, PX // 2)
        self.out = nn.Sequential(nn.Linear(DIM, 32), nn.GELU(), nn.Linear(32, DIM))

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.out(self.patches(images).flatten(2).transpose(1, 2))
        return latents


class Attention(Encoder):
    """Has a transformer of torch, which computes in fused layers in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, dropout=0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 1)

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.blocks(super().forward(images))
        return latents


class Predictor(nn.Module):
    """The next latent from W latents and W actions."""

    def __init__(self, history: int = 2) -> None:
        super().__init__()
        self.mix = nn.Linear(history * (DIM + 2), 32)
        self.out = nn.Linear(32, DIM)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        known = latents.transpose(1, 2).flatten(2)
        executed = actions.flatten(1)[:, None].expand(-1, latents.shape[2], -1)
        change: Tensor = self.out(torch.relu(self.mix(torch.cat([known, executed], dim=-1))))
        return latents[:, -1] + change


class ActionFree(Predictor):
    """The next latent from W latents alone."""

    def __init__(self, history: int = 2) -> None:
        super().__init__(history)
        self.mix = nn.Linear(history * DIM, 32)

    def forward(self, latents: Tensor) -> Tensor:  # type: ignore[override]
        change: Tensor = self.out(torch.relu(self.mix(latents.transpose(1, 2).flatten(2))))
        return latents[:, -1] + change


class Prefixes(nn.Module):
    """The latents after every prefix of H actions, from W shared latents and the actions between them."""

    def __init__(self, history: int = 2, horizon: int = 3) -> None:
        super().__init__()
        self.state = nn.Linear(history * DIM + 2 * (history - 1), 32)
        self.actions = nn.Linear(2, 32)
        self.register_buffer("sums", torch.ones(horizon, horizon).tril())
        self.out = nn.Linear(32, DIM)

    def forward(self, latents: Tensor, actions: Tensor, history_actions: Tensor | None = None) -> Tensor:
        known = latents.transpose(1, 2).flatten(2)
        if history_actions is not None:
            executed = history_actions.flatten(1)[:, None].expand(-1, latents.shape[2], -1)
            known = torch.cat([known, executed], dim=-1)
        prefixes = self.sums @ self.actions(actions)
        change: Tensor = self.out(torch.relu(self.state(known)[:, None] + prefixes[:, :, None]))
        return latents[:, -1:] + change


class Anticipating(Prefixes):
    """Its latents depend on later actions too."""

    def __init__(self) -> None:
        super().__init__()
        self.sums.fill_(1.0)


class LastOnly(Prefixes):
    """Returns the latent after the last action only."""

    def forward(self, latents: Tensor, actions: Tensor, history_actions: Tensor | None = None) -> Tensor:
        return super().forward(latents, actions, history_actions)[:, -1]


class MixingPrefixes(Prefixes):
    """Adds the mean of all candidates."""

    def forward(self, latents: Tensor, actions: Tensor, history_actions: Tensor | None = None) -> Tensor:
        futures = super().forward(latents, actions, history_actions)
        return futures + futures.mean(0, keepdim=True)


class NewestLatent(Prefixes):
    """Ignores the actions between the latents."""

    def __init__(self) -> None:
        super().__init__(history=1)

    def forward(self, latents: Tensor, actions: Tensor, history_actions: Tensor | None = None) -> Tensor:
        return super().forward(latents[:, -1:], actions)


class IgnoringActions(Prefixes):
    """Ignores the actions."""

    def forward(self, latents: Tensor, actions: Tensor, history_actions: Tensor | None = None) -> Tensor:
        return super().forward(latents, torch.zeros_like(actions), history_actions)


class Noise(Encoder):
    """Adds noise in evaluation mode as well."""

    def forward(self, images: Tensor) -> Tensor:
        latents = super().forward(images)
        return latents + 0.1 * torch.randn_like(latents)


class Centered(Encoder):
    """Subtracts the mean over the batch."""

    def forward(self, images: Tensor) -> Tensor:
        latents = super().forward(images)
        return latents - latents.mean(0, keepdim=True)


class Infinite(Encoder):
    """Divides by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0


class Vector(Encoder):
    """Returns one vector without an axis for tokens."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(1)


class Pair(Encoder):
    """Returns a tuple."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class WithTime(Predictor):
    """Returns an axis for time."""

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return super().forward(latents, actions)[:, None]


class Mixing(Predictor):
    """Adds the mean of all candidates."""

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        following = super().forward(latents, actions)
        return following + following.mean(0, keepdim=True)


class OtherActions(Predictor):
    """Was trained on actions of three components."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * (DIM + 3), 32)


class Unconditional(Predictor):
    """Ignores the action."""

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return super().forward(latents, torch.zeros_like(actions))


class Branching(Encoder):
    """Takes a branch that depends on a pixel, which tracing turns into a constant."""

    def forward(self, images: Tensor) -> Tensor:
        latents = super().forward(images)
        dark = [float(image[0, 0, 0]) < (20 / 255 - IMAGENET.mean[0]) / IMAGENET.std[0] for image in images]
        return torch.stack([-row if is_dark else row for row, is_dark in zip(latents, dark, strict=True)])


class FixedBatch(Predictor):
    """Turns the number of candidates into a constant when it is traced."""

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return super().forward(latents, actions).reshape(int(latents.shape[0]), TOKENS, DIM)


class NotExportable(Encoder):
    """Uses an operation that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        latents = super().forward(images)
        return latents + torch.special.bessel_j0(latents)


class Mean(nn.Module):
    """An energy that forgets to reduce the tokens."""

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        return (latents - goal).abs().mean(-1)


def arguments(**changed: Any) -> dict[str, Any]:
    """Return the arguments of export_bundle for a sound model, with changes."""
    torch.manual_seed(0)
    return {
        "encoder": Encoder(),
        "predictor": Predictor(),
        "frame_size": (PX, PX),
        "normalize": IMAGENET,
        "actions": ACTIONS,
        "step_s": STEP_S,
        "horizon": 3,
        "history": 2,
        "num_samples": 9,
        "calibration": [recording(1), recording(2)],
        "held_out": [recording(3)],
        "model_id": "mine",
        "version": "1.2.3",
        "description": "a square moves",
        "license": "Apache-2.0",
        "data": "drawn squares",
    } | changed


def prefix_arguments(**changed: Any) -> dict[str, Any]:
    """Return the arguments of export_bundle for a predictor of all steps, with changes."""
    torch.manual_seed(0)
    return arguments(predictor=Prefixes(), action_prefixes=True) | changed


def action_free_arguments(**changed: Any) -> dict[str, Any]:
    """Return the arguments of export_bundle for a model without actions, with changes."""
    torch.manual_seed(0)
    runs = {
        "calibration": [recording(1, known=False), recording(2, known=False)],
        "held_out": [recording(3, known=False)],
    }
    return arguments(predictor=ActionFree(), actions=None, num_samples=None, **runs) | changed
