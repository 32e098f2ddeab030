"""The bundle of a published V-JEPA 2-AC, unchanged; planning starts from one frame and the pose of the arm.

An action is the change of the pose within one step. The predictor graph reads the pose at the newest latent
(``history_states``) and advances it with each action, as the official planner does. The limits of the actions
are those of the official planner, which does not rotate the gripper.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.builder import Progress, build_bundle
from jepa_export.bundling.bundle_networks import L1Energy
from jepa_export.bundling.manifest_fields import (
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    StateSpace,
    create_manifest,
)
from jepa_export.bundling.student_bundle import GOLDEN_CANDIDATES, sample_candidates
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.task_progress import Begin, ignore_progress, track
from jepa_export.bundling.teacher_bundle import (
    GOLDEN_FRAMES,
    TOLERANCES,
    WINDOWS,
    BundleCost,
    GraphCost,
    StillFrameEncoder,
    measure_errors,
    working_bytes,
)
from jepa_export.bundling.variants import goal_variants, manifest_entries
from jepa_export.evaluation.compute_cost import network_multiply_adds, parameters
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.vjepa2_ac import (
    STATE_DIM,
    STATE_NAMES,
    STATE_UNITS,
    VJEPA2AC,
    VJEPA2ACConfig,
    pose_delta,
)
from jepa_runtime.bundle import Bundle

# Limits of the official planner: 0.05 m along each axis, no rotation, three quarters of the gripper's range.
_LIMITS = (0.05, 0.05, 0.05, 0.0, 0.0, 0.0, 0.75)
POSE_DELTAS = ActionSpace(
    names=STATE_NAMES, units=STATE_UNITS, low=tuple(-limit for limit in _LIMITS), high=_LIMITS
)
"""The actions that a planner may choose."""
# Golden candidates rotate the gripper too, so that the composition of rotations is verified.
_GOLDEN_LIMITS = (0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 0.75)
_GOLDEN_POSE = (0.4, 0.1, 0.3, 2.0, 0.2, -0.5, 0.5)


class ACFrameEncoder(nn.Module):
    """The encoder for one camera frame: uint8 [1, height, width, 3] -> tokens [1, T, D] of unit scale."""

    def __init__(self, model: VJEPA2AC) -> None:
        super().__init__()
        self.encoder = StillFrameEncoder(model)

    def forward(self, frame: Tensor) -> Tensor:
        return unit_scale(self.encoder(frame))


class PoseRollout(nn.Module):
    """The predictor with the runtime's interface: futures from the newest latent and the pose there."""

    def __init__(self, model: VJEPA2AC) -> None:
        super().__init__()
        self.model = model

    def forward(self, history_latents: Tensor, actions: Tensor, history_states: Tensor) -> Tensor:
        """Predict from [1, 1, T, D], [K, H, 7] and [1, 1, 7]: [K, H, T, D]."""
        count = actions.shape[0]
        latents, states = history_latents.expand(count, -1, -1, -1), history_states.expand(count, -1, -1)
        futures, _ = self.model.rollout(latents, actions, states)
        return futures


def frames_needed(horizon: int) -> int:
    """Return the number of frames, one step apart, that errors are measured on."""
    return max(WINDOWS + horizon, GOLDEN_FRAMES)


def bundle_cost(config: VJEPA2ACConfig, horizon: int, num_samples: int) -> BundleCost:
    """Return what a bundle costs, without reading any weights."""
    encoder, tokens = config.encoder, config.encoder.patches
    with torch.device("meta"):
        model = config.build()
        frame = torch.zeros(1, *encoder.frame_size, 3, dtype=torch.uint8)
        encode = network_multiply_adds(ACFrameEncoder(model), frame)
        inputs = (
            torch.zeros(1, 1, tokens, encoder.output_dim),
            torch.zeros(1, horizon, STATE_DIM),
            torch.zeros(1, 1, STATE_DIM),
        )
        predict = network_multiply_adds(PoseRollout(model), *inputs)
    longest = working_bytes(config.predictor, horizon * (tokens + 2))
    return BundleCost(
        GraphCost(parameters(model.encoder), encode, working_bytes(encoder, tokens)),
        GraphCost(parameters(model.predictor), predict, num_samples * longest),
        None,
        frames_needed(horizon),
        num_samples,
    )


@torch.no_grad()
def write_vjepa2_ac_bundle(
    model: VJEPA2AC,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: BundleSettings,
    identity: ModelIdentity,
    *,
    states: NDArray[np.float32] | None = None,
    seed: int,
    progress: Progress,
    begin: Begin = ignore_progress,
) -> Bundle:
    """Write the bundle ``folder`` of a V-JEPA 2-AC; an existing bundle is replaced.

    Errors are measured with the recorded poses of the arm: an action is the change of the pose from one frame
    to the next. Without poses they are those of an arm that stands at pose 0.

    Args:
        model: Model in evaluation mode.
        frames: uint8 [:func:`frames_needed`, height, width, 3], one step apart.
        folder: Destination.
        settings: Settings of the bundle.
        identity: Identity of the weights.
        states: [:func:`frames_needed`, 7], the poses at the frames; None: unknown.
        seed: Seed of the golden candidates.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    encoder, predictor, energy = ACFrameEncoder(model), PoseRollout(model), L1Energy()
    images, variants, horizon = torch.from_numpy(frames), settings.variants, settings.horizon
    with build_bundle(folder, progress) as builder:
        progress(f"encoding {len(frames)} frames")
        latents = torch.cat([encoder(each) for each in track(images.split(1), "encoding frames", begin)])
        progress(f"predicting {WINDOWS} windows to measure errors")
        poses = torch.zeros(len(frames), STATE_DIM) if states is None else torch.from_numpy(states)
        actions = pose_delta(poses[:-1], poses[1:])
        starts = track(range(WINDOWS), "predicting", begin)
        predicted = torch.cat(
            [
                predictor(
                    latents[None, start : start + 1],
                    actions[None, start : start + horizon],
                    poses[None, start : start + 1],
                )
                for start in starts
            ]
        )
        measured = _measured(predicted, latents)
        progress("encoder, predictor and energy: writing graphs")
        write_graph(encoder, [{"frame": frames[:1]}], "latent", builder.staging / "encoder", variants)
        wide = replace(
            settings,
            actions=replace(POSE_DELTAS, low=tuple(-limit for limit in _GOLDEN_LIMITS), high=_GOLDEN_LIMITS),
        )
        rollout = {
            "history_latents": latents[None, :1].numpy(),
            "actions": sample_candidates(wide, settings.num_samples, seed),
            "history_states": np.array([[_GOLDEN_POSE]], np.float32),
        }
        write_graph(
            predictor, [rollout], "futures", builder.staging / "predictor", variants, free_axis=("actions",)
        )
        pair = {"latents": latents[:2].numpy(), "goal": latents[-1:].numpy()}
        goal_keys = goal_variants(variants)
        write_graph(energy, [pair], "energy", builder.staging / "energy", goal_keys, free_axis=("latents",))
        steps = builder.write_steps(variants)
        golden = latents[:GOLDEN_FRAMES]
        count = min(settings.num_samples, GOLDEN_CANDIDATES)
        golden_actions = torch.from_numpy(sample_candidates(wide, GOLDEN_CANDIDATES, seed)[-count:])
        state = torch.tensor([[_GOLDEN_POSE]])
        builder.write_golden_outputs(
            frames=images[:GOLDEN_FRAMES],
            latents=golden,
            actions=golden_actions,
            history_states=state[0],
            futures=torch.stack([predictor(latent[None, None], golden_actions, state) for latent in golden]),
            energy=energy(golden, golden[-1:]),
        )
        fields = create_manifest(
            identity,
            settings,
            measured,
            frame=FrameFormat(*model.config.encoder.frame_size),
            latent=(latents.shape[1], latents.shape[2]),
            roles=("encoder", "predictor"),
            tolerances=TOLERANCES,
            others={"step": steps, "energy": manifest_entries("energy", goal_keys)},
            state=StateSpace(STATE_NAMES, STATE_UNITS),
        )
        builder.finish(fields, {})
    return Bundle.open(folder)


def _measured(predicted: Tensor, latents: Tensor) -> MeasuredErrors:
    """Return the errors of futures [n, H, T, D]; a goal is reached at half the median energy of a step."""
    count, horizon = predicted.shape[:2]
    actual = latents[1:].unfold(0, horizon, 1)[:count].movedim(-1, 1)
    changes = latents[1:] - latents[:-1]
    goal_threshold = float(changes.abs().flatten(1).mean(1).median()) / 2
    return replace(measure_errors(predicted, actual, changes), goal_threshold=goal_threshold)
