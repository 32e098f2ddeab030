"""The bundle of a published LeWM, unchanged; planning starts from one frame, as in the paper.

An action of LeWM is the concatenation of all robot actions between two of its frames (its frame skip),
standardized over the data. Bundles take actions in the units of the recordings, so the graph standardizes
them. The frame skip follows from the size of an action of LeWM and of one in the recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.builder import Progress, build_bundle
from jepa_export.bundling.manifest_fields import (
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
)
from jepa_export.bundling.student_bundle import GOLDEN_CANDIDATES, TOLERANCES, sample_candidates
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.task_progress import Begin, ignore_progress, track
from jepa_export.bundling.teacher_bundle import GOLDEN_FRAMES, measure_errors
from jepa_export.data.action_statistics import ActionStatistics
from jepa_export.data.action_statistics import measure as measure_actions
from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording
from jepa_export.errors import JepaExportError
from jepa_export.targets.openvino import Sample
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_export.teachers.normalization import PixelNormalization
from jepa_runtime.bundle import Bundle

# Trajectories that errors are measured on, and how many of them INT8 is calibrated on.
NUM_TRAJECTORIES, NUM_CALIBRATION = 64, 8
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Trajectories:
    """n trajectories of H steps, cut from recordings.

    Attributes:
        frames: uint8 [n, H + 1, px, px, 3], one step apart.
        actions: [n, H, A] between the frames, in the units of the recordings.
        statistics: Statistics of all actions in the recordings; A / len(statistics.names) of them are one
            action here.
        step_s: Time between two frames.
    """

    frames: NDArray[np.uint8]
    actions: Floats32
    statistics: ActionStatistics
    step_s: float

    @property
    def frame_skip(self) -> int:
        """The number of recorded actions in one action of LeWM."""
        return int(self.actions.shape[-1]) // len(self.statistics.names)

    @property
    def action_space(self) -> ActionSpace:
        """The range of the recorded actions, which is what a robot may be commanded."""
        order = range(1, self.frame_skip + 1)
        return ActionSpace(
            names=tuple(f"{name}@{index}" for index in order for name in self.statistics.names),
            units=self.statistics.units * self.frame_skip,
            low=self.statistics.low * self.frame_skip,
            high=self.statistics.high * self.frame_skip,
            max_norm=None,
        )

    @property
    def normalization(self) -> tuple[Floats32, Floats32]:
        """Mean and standard deviation [A] of an action; 1 where it never changes."""
        parts = self.statistics.mean, [std or 1.0 for std in self.statistics.std]
        mean, deviation = (np.tile(np.asarray(part, np.float32), self.frame_skip) for part in parts)
        return mean, deviation


def sample_trajectories(recordings: Sequence[Recording], *, action_dim: int, horizon: int) -> Trajectories:
    """Return at most :data:`NUM_TRAJECTORIES` evenly spaced trajectories, at the longest recording's rate.

    Args:
        recordings: Recordings with actions.
        action_dim: Size of one action of LeWM.
        horizon: H.

    Raises:
        JepaExportError: The recordings have no actions, ``action_dim`` is not a multiple of their size, or
            the recordings are too short.
    """
    longest = max(recordings, key=lambda recording: len(recording.stamps_ns))
    names = longest.action_names
    if names is None:
        raise JepaExportError(
            f"{longest.name} has no actions, which LeWM needs: name their topic (?action=…)",
            code="export.no_actions",
        )
    if action_dim % len(names):
        raise JepaExportError(
            f"an action of this LeWM has {action_dim} components, one of {longest.name} has {len(names)} "
            f"({', '.join(names)}): select those that it was trained with (?action=…)",
            code="export.action_size_mismatch",
        )
    skip = action_dim // len(names)
    windows = Windows(recordings, frames=skip * horizon + 1, rate_hz=longest.rate_hz)
    chosen = np.unique(np.linspace(0, len(windows) - 1, NUM_TRAJECTORIES).astype(int))
    clips = [windows[int(index)] for index in chosen]
    between = [clip.actions[:-1].reshape(horizon, -1) for clip in clips if clip.actions is not None]
    # Measured on single actions: trajectories overlap, which would give the ends of a recording less weight
    # than they had in training.
    statistics = measure_actions(Windows(recordings, frames=1, rate_hz=longest.rate_hz))
    assert statistics is not None
    frames = np.stack([clip.frames[::skip] for clip in clips])
    return Trajectories(frames, np.stack(between), statistics, skip / longest.rate_hz)


class LeWMFrameEncoder(nn.Module):
    """The encoder for one camera frame: uint8 [1, px, px, 3] -> latent [1, 1, D]."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model, self.normalize = model, PixelNormalization()

    def forward(self, frame: Tensor) -> Tensor:
        out: Tensor = self.model(self.normalize(frame)[:, None])
        return out


class UnnormalizedRollout(nn.Module):
    """:class:`Rollout` from one frame, of actions in the units of the recordings."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: LeWM, mean: Floats32, std: Floats32) -> None:
        super().__init__()
        self.rollout = Rollout(model)
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("std", torch.from_numpy(std), persistent=False)

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        """Predict from history_latents [1, 1, 1, D] and actions [K, H, A]: [K, H, 1, D]."""
        out: Tensor = self.rollout(history_latents, (actions - self.mean) / self.std)
        return out


@torch.no_grad()
def write_lewm_bundle(
    model: LeWM,
    trajectories: Trajectories,
    folder: Path,
    settings: BundleSettings,
    identity: ModelIdentity,
    *,
    seed: int,
    progress: Progress,
    begin: Begin = ignore_progress,
) -> Bundle:
    """Write the bundle ``folder`` of a LeWM; an existing bundle is replaced.

    Args:
        model: Model in evaluation mode.
        trajectories: Trajectories to calibrate and measure on.
        folder: Destination.
        settings: Settings of the bundle.
        identity: Identity of the weights.
        seed: Seed of the candidates that INT8 is calibrated on.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    encoder, predictor = LeWMFrameEncoder(model), UnnormalizedRollout(model, *trajectories.normalization)
    frames, variants = torch.from_numpy(trajectories.frames), settings.variants
    for name in trajectories.statistics.constant:
        progress(f"the action {name} is constant in the recordings, so robots may not change it either")
    with build_bundle(folder, progress) as builder:
        progress(f"encoding {frames.shape[0] * frames.shape[1]} frames")
        each_frame = track(frames.flatten(0, 1).split(1), "encoding frames", begin)
        latents = torch.cat([encoder(frame) for frame in each_frame]).unflatten(0, frames.shape[:2])
        progress(f"predicting {len(frames)} trajectories to measure errors")
        actions = torch.from_numpy(trajectories.actions)
        predicted = torch.cat(
            [predictor(each[None, :1], done[None]) for each, done in zip(latents, actions, strict=True)]
        )
        measured = _measured(identity, predicted, latents)
        selected = range(0, len(frames), max(1, len(frames) // NUM_CALIBRATION))
        progress(f"encoder: writing graphs, calibrated on {len(selected)} frames")
        encoder_samples: list[Sample] = [{"frame": trajectories.frames[index, :1]} for index in selected]
        write_graph(encoder, encoder_samples, "latent", builder.staging / "encoder", variants)
        progress(f"predictor: writing graphs, calibrated on {len(selected)} rollouts")
        rollouts = [
            {
                "history_latents": latents[index, None, :1].numpy(),
                "actions": sample_candidates(settings, settings.num_samples, seed + index),
            }
            for index in selected
        ]
        folder_of_predictor = builder.staging / "predictor"
        write_graph(predictor, rollouts, "futures", folder_of_predictor, variants, free_axis=("actions",))
        steps = builder.write_steps(variants)
        golden = latents[:GOLDEN_FRAMES, 0]
        candidates = torch.from_numpy(sample_candidates(settings, GOLDEN_CANDIDATES, seed))
        builder.write_golden_outputs(
            frames=frames[:GOLDEN_FRAMES, 0],
            latents=golden,
            actions=candidates,
            futures=torch.stack([predictor(latent[None, None], candidates) for latent in golden]),
        )
        fields = create_manifest(
            identity,
            settings,
            measured,
            frame=FrameFormat(model.config.encoder.px, model.config.encoder.px),
            latent=(1, model.config.encoder.width),
            roles=("encoder", "predictor"),
            tolerances=TOLERANCES,
            others={"step": steps},
        )
        builder.finish(fields, {})
    return Bundle.open(folder)


def _measured(identity: ModelIdentity, predicted: Tensor, latents: Tensor) -> MeasuredErrors:
    if not identity.trained:
        return MeasuredErrors.zero(predicted.shape[1])
    return measure_errors(predicted, latents[:, 1:], (latents[:, 1:] - latents[:, :-1]).flatten(0, 1))
