"""The bundle of a student network, calibrated on recorded frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
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
from jepa_export.bundling.variants import VariantKey
from jepa_export.quantization.accuracy_control import (
    DEFAULT_LIMITS,
    AccuracyController,
    CosineAgreement,
    HeldOutSamples,
)
from jepa_export.students.family import Student
from jepa_export.students.predictor import Predictor
from jepa_export.targets.openvino import Sample
from jepa_export.training.step_results import StepResults, array_hash, network_hash
from jepa_runtime.bundle import Bundle, Role, history_indices
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
    results: StepResults | None = None,
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
        results: See :func:`~jepa_export.bundling.builder.build_bundle`.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    variants, controller = settings.variants, AccuracyController(limits, progress, seen=seen)

    @cache
    def samples() -> dict[str, list[Sample]]:
        progress("encoding the frames")
        return _samples(student, clips, settings, seed)

    @cache
    def unseen() -> dict[str, HeldOutSamples]:
        # Held-out samples get other candidates.
        held_out_seed = seed + len(samples()["step"])
        found = {} if held_out is None else _samples(student, held_out, settings, held_out_seed)
        return {role: HeldOutSamples(each, controller) for role, each in found.items()}

    def write_encoder(folder: Path) -> None:
        frames = samples()["encoder"]
        progress(f"encoder: writing graphs, calibrated on {len(frames)} frames")
        write_graph(student.encoder, frames, "latent", folder, variants, held_out=unseen().get("encoder"))

    writers: dict[Role, Callable[[Path], None]] = {"encoder": write_encoder}
    writers |= predictor_writers(student.predictor, samples, unseen, variants, progress)
    networks = network_hash(student.encoder, student.predictor)
    inputs = graph_inputs(networks, clips, held_out, settings, controller, seed=seed)
    with build_bundle(folder, progress, results=results) as builder:
        for role, write in writers.items():
            builder.write_graphs(role, write, inputs, controller)
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


def predictor_writers(
    predictor: Predictor,
    samples: Callable[[], dict[str, list[Sample]]],
    held_out: Callable[[], dict[str, HeldOutSamples]],
    variants: Sequence[VariantKey],
    progress: Progress,
) -> dict[Role, Callable[[Path], None]]:
    """Return functions that write the graphs of a predictor into a folder, by graph.

    Args:
        predictor: Network.
        samples: Returns the samples to calibrate on, by graph.
        held_out: Returns those on which INT8 is controlled; empty: no accuracy control.
        variants: Variants to write.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
    """

    def write_steps(folder: Path) -> None:
        steps = samples()["step"]
        progress(f"step: writing graphs, calibrated on {len(steps)} samples")
        write_step(predictor, steps, folder, variants, held_out=held_out().get("step"))

    def write_rollouts(folder: Path) -> None:
        rollouts = samples()["predictor"]
        progress(f"predictor: writing graphs, calibrated on {len(rollouts)} rollouts")
        write_predictor(predictor, rollouts, folder, variants, held_out=held_out().get("predictor"))

    return {"step": write_steps, "predictor": write_rollouts}


def graph_inputs(
    networks: str,
    clips: NDArray[np.uint8],
    held_out: NDArray[np.uint8] | None,
    settings: BundleSettings,
    controller: AccuracyController,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return everything that the graphs of a bundle depend on, as JSON values.

    Args:
        networks: Hash of encoder and predictor.
        clips: See :func:`write_student_bundle`.
        held_out: Likewise.
        settings: Settings of the bundle.
        controller: Controls the accuracy of INT8.
        seed: Seed of the actions to calibrate on.
    """
    return {
        "networks": networks,
        "calibration clips": array_hash(clips),
        "held-out clips": None if held_out is None else array_hash(held_out),
        "variants": settings.variants,
        "actions": asdict(settings.actions),
        "history_size": settings.history_size,
        "horizon": settings.horizon,
        "num_samples": settings.num_samples,
        "INT8 limits": controller.settings,
        "seed": seed,
    }


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
    # Graphs with fixed shapes for one candidate cannot run several.
    count = 1 if settings.num_samples == 1 else GOLDEN_CANDIDATES
    actions = torch.from_numpy(sample_candidates(settings, GOLDEN_CANDIDATES, seed)[-count:])
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
