"""Make a bundle of your own encoder and predictor: python examples/own_model.py FOLDER."""

import sys

import torch
from torch import Tensor, nn

from jepa_export import ActionSpace, ArrayRecording, Normalization, export_bundle
from jepa_export.data.two_rooms_recordings import STEP_S, record

NAMES, UNITS = ("linear.x", "linear.y"), ("m/s", "m/s")


class Predictor(nn.Module):
    """Predicts the next latent [K, T, D] from latents [K, W, T, D] and actions [K, W, A]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256 + 2, 256), nn.GELU(), nn.Linear(256, 256))

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        newest = latents[:, -1]
        return newest + self.layers(torch.cat([newest.flatten(1), actions[:, -1]], dim=1)).view_as(newest)


torch.manual_seed(0)  # The encoder has random weights: images [N, 3, 128, 128] to latents [N, 16, 16].
patches = nn.Conv2d(3, 16, 16, 16), nn.GELU(), nn.Conv2d(16, 16, 2, 2)
encoder, predictor = nn.Sequential(*patches, nn.Flatten(2), nn.LayerNorm(16)), Predictor()
driven = record((0,), layouts=1, trajectories=64, frames=12, kind="fixed", steady_light=1.0)
frames, actions = driven.frames[0], driven.actions[0]
images = torch.from_numpy(frames[:48]).movedim(-1, 2) / 255
latents = encoder(images.flatten(0, 1)).detach().unflatten(0, images.shape[:2])
before, after = latents[:, :-1].flatten(0, 1)[:, None], latents[:, 1:].flatten(0, 1)
executed = torch.from_numpy(actions[:48]).flatten(0, 1)[:, None]
optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=1.0)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.mse_loss(predictor(before, executed), after).backward()
    optimizer.step()
runs = [
    ArrayRecording(*run, action_names=NAMES, action_units=UNITS, step_s=STEP_S, name=f"run {number}")
    for number, run in enumerate(zip(frames, actions, strict=True))
]
export_bundle(
    sys.argv[1],
    encoder=encoder,
    predictor=predictor,
    frame_size=(128, 128),
    normalize=Normalization(),
    actions=ActionSpace(names=NAMES, units=UNITS, low=(-1.25, -1.25), high=(1.25, 1.25), max_norm=1.25),
    step_s=STEP_S,
    horizon=8,
    calibration=runs[:48],
    held_out=runs[48:],
    model_id="own_model",
    version="0.1.0",
    description="a robot with a camera above it drives through two rooms",
    license="Apache-2.0",
    data="48 simulated trajectories",
)
