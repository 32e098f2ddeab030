"""The model of Reacher of stable-worldmodel: two stages, trained on recordings of random torques.

The encoder learns the angles of the joints, which the recordings contain, and then stays as it is; the
predictor learns how the torques move its latents. An action of the model is the mean of :data:`BLOCK`
successive actions of the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from jepa_export import ActionSpace, ArrayRecording, Normalization, export_bundle
from jepa_export.bundling.bundle_networks import UnrolledPredictor
from jepa_export.evaluation.bundle_report import add_to_report
from jepa_export.training.checkpoint import claim_folder, lock_folder
from jepa_export.training.stage import ModuleStage, run_stage
from jepa_recipes.stable_worldmodel.reacher_networks import (
    HISTORY,
    JOINTS,
    ArmEncoder,
    ArmEnergy,
    ArmPredictor,
    angles,
)
from jepa_recipes.stable_worldmodel.recordings import Rows, Source
from jepa_recipes.two_token.losses import decorrelation
from jepa_recipes.two_token.networks import PIXEL_MEAN, PIXEL_STD, JointEstimate
from jepa_runtime.bundle import Bundle
from jepa_sim.worlds.gymnasium_adapter import FRAME_PX

BLOCK = 2
# A step of the environment takes 0.04 s.
STEP_S = BLOCK * 0.04
HORIZON, NUM_SAMPLES = 8, 256
_NORMALIZE = Normalization(mean=(PIXEL_MEAN[0] / 255,) * 3, std=(PIXEL_STD[0] / 255,) * 3)
TORQUES = ActionSpace(
    names=("joint0.torque", "joint1.torque"), units=("1", "1"), low=(-1.0, -1.0), high=(1.0, 1.0)
)
# Below this error of a cosine or sine the loss is quadratic, above it is linear.
_SMALL = 0.05
_CALIBRATION_RECORDINGS = 16


def _random(swm: ModuleType, seed: int) -> Any:
    return swm.policy.RandomPolicy(seed=seed)


SOURCE = Source(
    "reacher", "swm/ReacherDMControl-v0", _random, ("qpos", "qvel"), settings={"task": "qpos_match"}
)


@dataclass(frozen=True)
class Recipe:
    """Amount of training."""

    encoder_steps: int = 3500
    encoder_batch: int = 128
    predictor_steps: int = 2000
    predictor_batch: int = 512


class EncoderStage(ModuleStage):
    """Training of the encoder: the angles of the joints can be read from the latents."""

    name = "encoder"

    def __init__(self, rows: Rows, recipe: Recipe) -> None:
        self.encoder, self.joints = ArmEncoder(), JointEstimate(JOINTS)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(
            {"encoder": self.encoder, "joints": self.joints},
            steps=recipe.encoder_steps,
            learning_rate=2e-3,
            clip_norm=2.0,
        )
        self._rows, self._batch = rows, recipe.encoder_batch
        self._starts = torch.from_numpy(rows.starts(0, held_out=False))

    def losses(self, step: int) -> dict[str, Tensor]:
        del step
        drawn = self._starts[torch.randint(len(self._starts), (self._batch,))].numpy()
        latents = self.encoder(_pixels(self._rows.frames[drawn]))
        return {
            "joints": functional.smooth_l1_loss(
                self.joints(latents[:, 0]), _cosines_and_sines(self._rows, drawn), beta=_SMALL
            ),
            "decorrelation": 0.002 * decorrelation(latents[:, 0]),
        }


class PredictorStage(ModuleStage):
    """Training of the predictor on latents of recordings, over all steps of the horizon."""

    name = "predictor"

    def __init__(self, rows: Rows, latents: Tensor, joints: JointEstimate, recipe: Recipe) -> None:
        self.predictor, self._joints = ArmPredictor(), joints.requires_grad_(False)
        super().__init__(
            {"predictor": self.predictor}, steps=recipe.predictor_steps, learning_rate=2e-3, clip_norm=2.0
        )
        self._latents, self._torques = latents, _torques(rows)
        self._batch = recipe.predictor_batch
        self._starts = torch.from_numpy(rows.starts(_WINDOW, held_out=False))

    def losses(self, step: int) -> dict[str, Tensor]:
        del step
        starts = self._starts[torch.randint(len(self._starts), (self._batch,))]
        latents, torques = _window(self._latents, self._torques, starts)
        predicted = rollout(self.predictor, latents[:, :HISTORY], torques)
        seen = latents[:, HISTORY:]
        return {
            "latents": functional.smooth_l1_loss(predicted, seen),
            "joints": 4.0
            * functional.smooth_l1_loss(self._joints(predicted), self._joints(seen), beta=_SMALL),
        }


# Steps of the environment from the first frame of a window to its last.
_WINDOW = (HISTORY + HORIZON - 1) * BLOCK


def rollout(predictor: nn.Module, history: Tensor, torques: Tensor) -> Tensor:
    """Return the latents [K, HORIZON, 1, dim] after [K, HISTORY, 1, dim], for torques between all of them."""
    predicted: Tensor = UnrolledPredictor(predictor)(
        history, torques[:, HISTORY - 1 :], torques[:, : HISTORY - 1]
    )
    return predicted


def train_and_bundle(out: Path, rows: Rows, *, command: str, seed: int, recipe: Recipe) -> Bundle:
    """Train in ``out``/checkpoints, resuming from there, and write the bundle ``out``/bundle.

    Args:
        out: Folder of checkpoints and bundle.
        rows: Recordings.
        command: Command line for the provenance of the bundle.
        seed: Seed of weights and batches.
        recipe: Amount of training.

    Raises:
        JepaExportError: The folder belongs to other settings, or the bundle does not reproduce the networks.
    """
    checkpoints = out / "checkpoints"
    claim_folder(checkpoints, asdict(recipe) | {"seed": seed}, write=True)
    lock_folder(checkpoints)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    encoder_stage = EncoderStage(rows, recipe)
    run_stage(encoder_stage, checkpoints)
    encoder, joints = encoder_stage.encoder.eval(), encoder_stage.joints
    latents = _encode(encoder, rows)
    torch.manual_seed(seed + 1)
    predictor_stage = PredictorStage(rows, latents, joints, recipe)
    run_stage(predictor_stage, checkpoints)
    predictor = predictor_stage.predictor.eval()
    trained, held_out = rows.recordings(held_out=False), rows.recordings(held_out=True)
    bundle = export_bundle(
        out / "bundle",
        encoder=encoder,
        predictor=predictor,
        energy=ArmEnergy(joints),
        frame_size=(FRAME_PX, FRAME_PX),
        normalize=_NORMALIZE,
        actions=TORQUES,
        step_s=STEP_S,
        horizon=HORIZON,
        history=HISTORY,
        num_samples=NUM_SAMPLES,
        calibration=_recordings(rows, trained[:_CALIBRATION_RECORDINGS]),
        held_out=_recordings(rows, held_out),
        model_id="swm_reacher",
        version="1.0.0",
        description="Reacher of stable-worldmodel: an arm with two joints that torques move, seen from above",
        license="Apache-2.0",
        data=f"{len(trained)} recordings of random torques, with the angles of the joints",
        seed=seed,
        command=command,
    )
    return add_to_report(bundle, {"joint_errors_rad": joint_errors(predictor, latents, joints, rows)})


@torch.no_grad()
def joint_errors(
    predictor: nn.Module, latents: Tensor, joints: JointEstimate, rows: Rows
) -> dict[str, list[float]]:
    """Return the mean error of each joint in rad on held-out recordings, read from an image and predicted."""
    starts = torch.from_numpy(rows.starts(_WINDOW, held_out=True))
    seen, torques = _window(latents, _torques(rows), starts)
    predicted = rollout(predictor, seen[:, :HISTORY], torques)
    frames = starts[:, None] + torch.arange(HISTORY + HORIZON) * BLOCK
    true = torch.from_numpy(rows.states[:, :JOINTS])[frames]

    def errors(estimated: Tensor, expected: Tensor) -> list[float]:
        difference = angles(joints(estimated[..., 0, :])) - expected
        wrapped = torch.atan2(difference.sin(), difference.cos())
        return [round(float(value), 4) for value in wrapped.abs().flatten(0, -2).mean(0)]

    return {
        "read": errors(seen, true),
        "predicted_one_step": errors(predicted[:, 0], true[:, HISTORY]),
        f"predicted_{HORIZON}_steps": errors(predicted[:, -1], true[:, -1]),
    }


def _pixels(frames: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _cosines_and_sines(rows: Rows, chosen: NDArray[np.int64]) -> Tensor:
    joint_angles = torch.from_numpy(rows.states[chosen, :JOINTS])
    return torch.cat([joint_angles.cos(), joint_angles.sin()], dim=-1)


def _torques(rows: Rows) -> Tensor:
    """Return the mean action [N, JOINTS] of the block that begins at each row.

    At the last rows of a recording it reaches into the next one; no window begins a block there.
    """
    following = [np.roll(rows.actions, -step, axis=0) for step in range(BLOCK)]
    return torch.from_numpy(np.mean(following, axis=0, dtype=np.float32))


def _window(latents: Tensor, torques: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents [K, HISTORY + HORIZON, 1, dim] from ``starts`` on and the torques between them."""
    frames = starts[:, None] + torch.arange(HISTORY + HORIZON) * BLOCK
    return latents[frames], torques[frames[:, :-1]]


@torch.no_grad()
def _encode(encoder: ArmEncoder, rows: Rows) -> Tensor:
    parts = [
        encoder(_pixels(rows.frames[start : start + 256]))
        for start in track(range(0, len(rows.frames), 256), description="       encode")
    ]
    return torch.cat(parts)


def _recordings(rows: Rows, chosen: Sequence[range]) -> list[ArrayRecording]:
    """Return recordings with one frame for each step of the model."""
    torques = _torques(rows).numpy()
    found = []
    for recording in chosen:
        frames = np.asarray(recording[::BLOCK])
        found.append(
            ArrayRecording(
                rows.frames[frames],
                torques[frames[:-1]],
                action_names=TORQUES.names,
                action_units=TORQUES.units,
                step_s=STEP_S,
                name=f"reacher from row {recording.start}",
            )
        )
    return found
