"""The bundle of a student network, calibrated on recorded frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.bundling.builder import Progress, build_bundle
from jepa_export.bundling.manifest_fields import (
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
)
from jepa_export.bundling.student_graphs import write_graph, write_predictor, write_step
from jepa_export.quantization.accuracy_control import (
    DEFAULT_LIMITS,
    AccuracyController,
    CosineAgreement,
    HeldOutSamples,
)
from jepa_export.students.family import Student
from jepa_export.targets.openvino import Sample
from jepa_runtime.bundle import Bundle, history_indices
from jepa_runtime.planning import CEM, ActionLimits, CEMConfig

# Rollouts to calibrate the predictor on; each yields one sample per step.
ROLLOUTS = 8
# With fewer, a history in reverse order would be the same.
GOLDEN_FRAMES = 3
GOLDEN_CANDIDATES = 4
# Random weights amplify rounding more than trained ones: INT8 is checked for gross errors, not for accuracy.
TOLERANCES = {
    "fp32": {"min_cosine": 0.9999, "max_abs": 0.02},
    "fp16": {"min_cosine": 0.999, "max_abs": 0.2},
    "bf16": {"min_cosine": 0.99, "max_abs": 0.3},
    "int8": {"min_cosine": 0.9, "max_abs": 2.0},
}


def write_untrained_bundle(
    student: Student,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: BundleSettings,
    *,
    seed: int,
    progress: Progress,
) -> Bundle:
    """Write the bundle of a student with random weights and without measured errors.

    Args:
        student: Network.
        frames: uint8 [n, px, px, 3], consecutive.
        folder: See :func:`write_student_bundle`.
        settings: Settings of the bundle.
        seed: Seed of the actions to calibrate on.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
    """
    identity = ModelIdentity(
        model_id=student.name,
        version="0.0.0-untrained",
        trained=False,
        description=f"{student.name} with random weights: for measuring speed; its outputs mean nothing",
        licence="Apache-2.0",
        data="none: random weights",
        teacher=None,
    )
    measured = MeasuredErrors.zero(settings.horizon)
    return write_student_bundle(
        student, frames[None], folder, settings, identity, measured, seed=seed, progress=progress
    )


def write_student_bundle(
    student: Student,
    clips: NDArray[np.uint8],
    folder: Path,
    settings: BundleSettings,
    identity: ModelIdentity,
    measured: MeasuredErrors,
    *,
    seed: int,
    progress: Progress,
    report: dict[str, Any] | None = None,
    held_out: NDArray[np.uint8] | None = None,
    limits: CosineAgreement = DEFAULT_LIMITS,
    seen: bool = False,
) -> Bundle:
    """Write the bundle ``folder`` of a student; an existing bundle is replaced.

    Args:
        student: Network.
        clips: uint8 [C, n, px, px, 3] to calibrate on, each of at least ``history_size`` and two frames.
        folder: Destination.
        settings: Settings of the bundle.
        identity: Identity of the weights.
        measured: Error statistics.
        seed: Seed of the actions to calibrate on.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        report: Content of report.json, extended by the results of the build.
        held_out: Clips like ``clips`` that are not calibrated on. INT8 is measured and controlled on them,
            see :class:`~jepa_export.quantization.accuracy_control.AccuracyController`. None: no accuracy
        control.
        limits: Limits of INT8 on ``held_out``.
        seen: Whether ``held_out`` is part of the calibration data, because there is no other.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    variants, controller = settings.variants, AccuracyController(limits, progress, seen=seen)
    with build_bundle(folder, progress) as builder:
        progress("encoding the frames")
        samples = _samples(student, clips, settings, seed)
        # Held-out samples get other candidates.
        held_out_seed = seed + len(samples["step"])
        unseen = {} if held_out is None else _samples(student, held_out, settings, held_out_seed)
        controlled = {role: HeldOutSamples(each, controller) for role, each in unseen.items()}
        progress(f"encoder: writing graphs, calibrated on {len(samples['encoder'])} frames")
        write_graph(
            student.encoder,
            samples["encoder"],
            "latent",
            builder.staging / "encoder",
            variants,
            held_out=controlled.get("encoder"),
        )
        progress(f"step: writing graphs, calibrated on {len(samples['step'])} samples")
        write_step(
            student.predictor,
            samples["step"],
            builder.staging / "step",
            variants,
            held_out=controlled.get("step"),
        )
        progress(f"predictor: writing graphs, calibrated on {len(samples['predictor'])} rollouts")
        write_predictor(
            student.predictor,
            samples["predictor"],
            builder.staging / "predictor",
            variants,
            held_out=controlled.get("predictor"),
        )
        builder.write_golden_outputs(**_golden_outputs(student, clips, settings, seed))
        config = student.encoder.config
        fields = create_manifest(
            identity,
            settings,
            measured,
            frame=FrameFormat(config.px, config.px),
            latent=(config.tokens, config.dim),
            roles=("encoder", "predictor", "step"),
            tolerances=TOLERANCES,
        )
        builder.finish(fields, (report or {}) | controller.report())
    return Bundle.open(folder)


def _samples(
    student: Student, clips: NDArray[np.uint8], settings: BundleSettings, seed: int
) -> dict[str, list[Sample]]:
    """Return inputs of each graph."""
    latents = torch.stack([_encode(student, clip) for clip in clips])
    return {
        "encoder": [{"frame": frame[None]} for clip in clips for frame in clip],
        **calibration_samples(rollout_samples(latents, settings, seed)),
    }


def calibration_samples(rollouts: list[Sample]) -> dict[str, list[Sample]]:
    """Select the calibration samples of the predictor and the step graph from :func:`rollout_samples`.

    The step graph predicts the next frame from the executed action; it gets the last candidate, because the
    first is the mean of the plan, which is still zero.
    """
    return {
        "predictor": rollouts[:: max(1, len(rollouts) // ROLLOUTS)],
        "step": [sample | {"actions": sample["actions"][-1:, :1]} for sample in rollouts],
    }


@torch.no_grad()
def _encode(student: Student, frames: NDArray[np.uint8]) -> Tensor:
    return torch.cat([student.encoder(torch.from_numpy(frame[None])) for frame in frames])


def sample_candidates(settings: BundleSettings, count: int, seed: int) -> NDArray[np.float32]:
    """Return action sequences as the planner samples them: [count, H, A]."""
    actions = settings.actions
    low, high = (np.array(limit, np.float32) for limit in (actions.low, actions.high))
    limits = ActionLimits(low=low, high=high, max_norm=actions.max_norm)
    return CEM(CEMConfig(num_samples=count, horizon=settings.horizon, topk=1), limits, seed=seed).ask()


def rollout_samples(latents: Tensor, settings: BundleSettings, seed: int) -> list[Sample]:
    """Return inputs of the predictor: every history in the latents of clips, with a planner's candidates.

    Args:
        latents: [C, n, T, D].
        settings: Settings of the bundle.
        seed: Seed of the candidates.
    """
    size = settings.history_size
    samples: list[Sample] = []
    for history in latents.unfold(1, size, 1).movedim(-1, 2).flatten(0, 1):
        sample_seed = seed + len(samples)
        sample: Sample = {
            "history_latents": history[None].numpy(),
            "actions": sample_candidates(settings, settings.num_samples, sample_seed),
        }
        if size > 1:
            sample["history_actions"] = sample_candidates(settings, size, sample_seed)[None, 1:, 0]
        samples.append(sample)
    return samples


@torch.no_grad()
def golden_futures(
    predictor: Callable[..., Tensor], latents: Tensor, settings: BundleSettings, seed: int
) -> dict[str, Tensor]:
    """Return candidates, and the futures of each history in latents [n, T, D].

    Args:
        predictor: The network, from latents, actions and history actions to futures.
        latents: Latents of n frames.
        settings: Settings of the bundle.
        seed: Seed of the candidates.

    Returns:
        ``actions``, ``futures`` and, with a history of several frames, ``history_actions``, see
        :class:`jepa_runtime.bundle.GoldenOutputs`.
    """
    size = settings.history_size
    actions = torch.from_numpy(sample_candidates(settings, GOLDEN_CANDIDATES, seed))
    inputs = {"actions": actions}
    if size > 1:
        inputs["history_actions"] = torch.from_numpy(sample_candidates(settings, size, seed)[1:, 0])
    history_actions = inputs["history_actions"][None] if size > 1 else None
    pasts = latents[torch.from_numpy(history_indices(len(latents), size))]
    futures = torch.stack([predictor(each[None], actions, history_actions) for each in pasts])
    return inputs | {"futures": futures}


def _golden_outputs(
    student: Student, clips: NDArray[np.uint8], settings: BundleSettings, seed: int
) -> dict[str, Tensor]:
    frames = clips.reshape(-1, *clips.shape[2:])
    frames = frames[:: max(1, len(frames) // GOLDEN_FRAMES)][:GOLDEN_FRAMES]
    latents = _encode(student, frames)
    futures = golden_futures(student.predictor, latents, settings, seed)
    return {"frames": torch.from_numpy(frames), "latents": latents, **futures}
