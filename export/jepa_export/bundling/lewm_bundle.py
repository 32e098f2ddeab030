"""A bundle of LeWM as it is: a plan begins from one frame, as its authors plan.

An action of LeWM is all that the robot is told from one of its frames to the next, side by side (its frame
skip), standardised over the data. Bundles take actions as recordings have them, in their units: the graph
standardises. How many of a recording's actions make one of LeWM's follows from how many numbers both have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.manifest_fields import (
    Actions,
    Identity,
    Measured,
    Settings,
    complete,
    manifest,
    write_golden,
)
from jepa_export.bundling.staging import staged
from jepa_export.bundling.student_bundle import GOLDEN_CANDIDATES, TOLERANCES, candidates
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.teacher_bundle import GOLDEN_FRAMES, measured_errors
from jepa_export.bundling.variants import model_path, write_first_step
from jepa_export.data.action_statistics import ActionStatistics
from jepa_export.data.action_statistics import measure as statistics
from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording
from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_runtime.bundle import Bundle

# On so many walks a bundle is measured, and on so many of them INT8 is calibrated.
WALKS, CALIBRATED_ON = 64, 8
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Walks:
    """n walks through recordings, of H steps.

    Attributes:
        frames: uint8 [n, H + 1, px, px, 3], a step apart.
        actions: [n, H, A] between them, in the units of the recordings.
        told: of all actions of the recordings, of which A / len(told.names) make one here.
        step_s: from frame to frame.
    """

    frames: NDArray[np.uint8]
    actions: Floats32
    told: ActionStatistics
    step_s: float

    @property
    def skip(self) -> int:
        """How many actions of the recordings make one here."""
        return self.actions.shape[-1] // len(self.told.names)

    @property
    def limits(self) -> Actions:
        """What a robot may be told: what it was told there."""
        order = range(1, self.skip + 1)
        return Actions(
            names=tuple(f"{name}@{index}" for index in order for name in self.told.names),
            units=self.told.units * self.skip,
            low=self.told.low * self.skip,
            high=self.told.high * self.skip,
            max_norm=None,
        )

    @property
    def standard(self) -> tuple[Floats32, Floats32]:
        """Mean and standard deviation [A] of an action; 1 where it never changes."""
        parts = self.told.mean, [std or 1.0 for std in self.told.std]
        mean, deviation = (np.tile(np.float32(part), self.skip) for part in parts)
        return mean, deviation


def walks_through(recordings: Sequence[Recording], *, action_dim: int, horizon: int) -> Walks:
    """At most :data:`WALKS` walks, evenly spaced, at the rate of the longest recording.

    Raises:
        JepaExportError: the recordings have no actions, or such of which no whole number makes
            ``action_dim`` numbers; or they are too short.
    """
    longest = max(recordings, key=lambda recording: len(recording.stamps_ns))
    names = longest.action_names
    if names is None:
        raise JepaExportError(f"{longest.name} has no actions, which LeWM needs: say which (?action=…)")
    if action_dim % len(names):
        raise JepaExportError(
            f"an action of this LeWM is {action_dim} numbers, one of {longest.name} {len(names)} "
            f"({', '.join(names)}): choose those that it was trained with (?action=…)"
        )
    skip = action_dim // len(names)
    windows = Windows(recordings, frames=skip * horizon + 1, rate_hz=longest.rate_hz)
    chosen = np.unique(np.linspace(0, len(windows) - 1, WALKS).astype(int))
    clips = [windows[int(index)] for index in chosen]
    between = [clip.actions[:-1].reshape(horizon, -1) for clip in clips if clip.actions is not None]
    # Walks overlap: by those, what is done at the ends of a recording counts less than in its training.
    told = statistics(Windows(recordings, frames=1, rate_hz=longest.rate_hz))
    assert told is not None
    frames = np.stack([clip.frames[::skip] for clip in clips])
    return Walks(frames, np.stack(between), told, skip / longest.rate_hz)


class FrameEncoder(nn.Module):
    """One frame as cameras give it, uint8 [1, px, px, 3] -> its latent [1, 1, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        pixels = ((frame.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        out: Tensor = self.model(pixels[:, None])
        return out


class RawRollout(nn.Module):
    """:class:`Rollout` of actions as the recordings have them, from one frame."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: LeWM, mean: Floats32, std: Floats32) -> None:
        super().__init__()
        self.rollout = Rollout(model)
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("std", torch.from_numpy(std), persistent=False)

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        """[1, 1, 1, D], [K, H, A] -> [K, H, 1, D]."""
        out: Tensor = self.rollout(history_latents, (actions - self.mean) / self.std)
        return out


@torch.no_grad()
def write_lewm(
    model: LeWM,
    walks: Walks,
    folder: Path,
    settings: Settings,
    identity: Identity,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists).

    Args:
        model: in evaluation mode.
        seed: of the candidates that INT8 is calibrated on.
        progress: told in words what comes next.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    encoder, predictor = FrameEncoder(model), RawRollout(model, *walks.standard)
    frames, kinds = torch.from_numpy(walks.frames), settings.variants
    for name in walks.told.still:
        progress(
            f"the action {name} never changes in the recordings: robots will not be let change it either"
        )
    with staged(folder) as staging:
        progress(f"encoding {frames.shape[0] * frames.shape[1]} frames")
        latents = torch.stack([torch.cat([encoder(frame[None]) for frame in walk]) for walk in frames])
        progress(f"predicting {len(frames)} walks, to measure the errors")
        told = torch.from_numpy(walks.actions)
        predicted = torch.cat(
            [predictor(each[None, :1], done[None]) for each, done in zip(latents, told, strict=True)]
        )
        measured = _measured(identity, predicted, latents)
        spread = range(0, len(frames), max(1, len(frames) // CALIBRATED_ON))
        progress(f"encoder: its graphs, calibrated on {len(spread)} frames")
        shown = [{"frame": walks.frames[index, :1]} for index in spread]
        write_graph(encoder, shown, "latent", staging / "encoder", kinds)
        progress(f"predictor: the same, calibrated on {len(spread)} rollouts")
        asked = [
            {
                "history_latents": latents[index, None, :1].numpy(),
                "actions": candidates(settings, settings.num_samples, seed + index),
            }
            for index in spread
        ]
        write_graph(predictor, asked, "futures", staging / "predictor", kinds, free_axis=("actions",))
        npu = [kind for kind in kinds if kind[0] == "npu"]
        for kind in npu:
            write_first_step(staging, kind)
        golden = latents[:GOLDEN_FRAMES, 0]
        actions = torch.from_numpy(candidates(settings, GOLDEN_CANDIDATES, seed))
        futures = torch.stack([predictor(latent[None, None], actions) for latent in golden])
        write_golden(
            staging, frames=frames[:GOLDEN_FRAMES, 0], latents=golden, actions=actions, futures=futures
        )
        fields = manifest(
            identity,
            settings,
            measured,
            px=model.config.encoder.px,
            latent=(1, model.config.encoder.width),
            roles=("encoder", "predictor"),
            tolerances=TOLERANCES,
        )
        fields["graphs"]["step"] = [
            {"target": target, "precision": precision, "path": model_path("step", (target, precision))}
            for target, precision in npu
        ]
        complete(staging, fields, {}, progress)
    return Bundle.open(folder)


def _measured(identity: Identity, predicted: Tensor, latents: Tensor) -> Measured:
    if not identity.trained:
        return Measured.nothing(predicted.shape[1])
    return measured_errors(predicted, latents[:, 1:], (latents[:, 1:] - latents[:, :-1]).flatten(0, 1))
