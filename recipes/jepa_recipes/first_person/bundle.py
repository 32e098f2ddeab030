"""The bundle of a first-person world model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_export.bundling.builder import BundleBuilder, build_bundle
from jepa_export.bundling.manifest_fields import (
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
    report_fields,
)
from jepa_export.bundling.student_bundle import (
    GOLDEN_FRAMES,
    TOLERANCES,
    calibration_samples,
    golden_futures,
    rollout_samples,
)
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.variants import VariantKey, goal_variants, manifest_entries
from jepa_export.quantization.accuracy_control import AccuracyController, HeldOutSamples, limits_of
from jepa_export.targets.openvino import Sample, compress_int8
from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.exported_graphs import EnergyGraph, PredictorGraph, RelativePoseGraph
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.metrics import DriveMetrics, measure, measure_readings
from jepa_recipes.first_person.networks import PIXEL_MEAN, PIXEL_STD, TOKENS, Networks
from jepa_runtime import WorldModel
from jepa_runtime.bundle import POSE_BATCH, Bundle
from jepa_sim.worlds.first_person.motion import MAX_SPEED_MPS, MAX_TURN_RADPS, MIN_SPEED_MPS
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX
from jepa_sim.worlds.first_person.world import MODEL_STEP_S
from jepa_sim.worlds.interface import Image

MODEL_ID = "first_person"
HORIZON = 4
NUM_SAMPLES = 9
# Of the latent before the newest one the predictor needs only the action that followed it.
_HISTORY_SIZE = 2
_INT8: VariantKey = ("openvino", "int8")
VARIANTS: tuple[VariantKey, ...] = (
    _INT8,
    ("onnx", "fp32"),
    ("npu", "int8"),
    ("npu", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
)
_CALIBRATION = ClipShape(drives=32, frames=8, turned=0, consecutive=32)
_HELD_OUT = ClipShape(drives=8, frames=8, turned=0, consecutive=8)
# Poses are read from small differences between latents.
_INT8_LIMITS = limits_of(0.995)
_CALIBRATION_STREAM, _HELD_OUT_STREAM = 4, 5


def write_first_person_bundle(
    networks: Networks,
    drives: DriveLibrary,
    held_out: DriveLibrary,
    folder: Path,
    *,
    version: str,
    command: str,
    model_id: str = MODEL_ID,
    teacher: str | None = None,
    variants: Sequence[VariantKey] = VARIANTS,
    progress: Callable[[str], None] = lambda _: None,
) -> DriveMetrics:
    """Write the bundle ``folder`` of trained networks; an existing bundle is replaced.

    Args:
        networks: Trained networks.
        drives: Drives for training, to calibrate on.
        held_out: Held-out drives, to measure on.
        folder: Destination.
        version: Version for the manifest.
        command: Command line for the provenance.
        model_id: Id for the manifest.
        teacher: What the networks were distilled from.
        variants: Variants of encoder and predictor, the preferred first. Energy and relative
            pose decide where the robot drives and stops: one variant for each target, in the best precision
            that it supports.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.

    Returns:
        The accuracy on ``held_out``.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    settings = _settings(command, tuple(variants))
    controller = AccuracyController(_INT8_LIMITS, progress)
    with build_bundle(folder, progress) as builder:
        progress("measuring on held-out drives")
        metrics = measure(networks, held_out, horizon=HORIZON)
        clips = _images(drives, _CALIBRATION, _CALIBRATION_STREAM, augment=True)
        unseen = _images(held_out, _HELD_OUT, _HELD_OUT_STREAM, augment=False)
        graphs = _write_graphs(networks, clips, unseen, builder, settings, controller)
        builder.write_golden_outputs(**_golden_outputs(networks, unseen, settings))
        identity = ModelIdentity(
            model_id=model_id,
            version=version,
            trained=True,
            description="a wheeled robot with a forward camera drives to where a goal image was taken",
            licence="Apache-2.0",
            data="simulated on the fly: camera images, commands, and the robot's wheel odometry",
            teacher=teacher,
        )
        fields = _fields(identity, metrics, settings, graphs, networks.encoder.dim)
        bundle = builder.finish(fields, {"open_loop": report_fields(metrics)} | controller.report())
        if _INT8 in variants:
            progress("measuring what is read from the latents of INT8")
            readings = {"int8_readings": _readings(bundle, networks, held_out)}
            builder.write_report(bundle.report() | readings)
            builder.seal(bundle.manifest)
    return metrics


def _readings(bundle: Bundle, networks: Networks, held_out: DriveLibrary) -> dict[str, dict[str, float]]:
    """Return the errors of readings from INT8 latents, on the pairs of ``open_loop`` in the report."""
    target, precision = _INT8
    with WorldModel.open(bundle, target=target, precision=precision) as model:
        return measure_readings(
            lambda images: torch.from_numpy(model.encode(images.numpy())), networks, held_out
        )


def _settings(command: str, variants: tuple[VariantKey, ...]) -> BundleSettings:
    return BundleSettings(
        actions=ActionSpace(
            names=("linear.x", "angular.z"),
            units=("m/s", "rad/s"),
            low=(MIN_SPEED_MPS, -MAX_TURN_RADPS),
            high=(MAX_SPEED_MPS, MAX_TURN_RADPS),
            max_norm=None,
        ),
        history_size=_HISTORY_SIZE,
        horizon=HORIZON,
        num_samples=NUM_SAMPLES,
        step_s=MODEL_STEP_S,
        rate_hz=30.0,
        variants=variants,
        command=command,
    )


def _images(library: DriveLibrary, shape: ClipShape, stream: int, *, augment: bool) -> Image:
    """Return consecutive images of random drives [D, F, height, width, 3]."""
    return sample_clips(library, shape, np.random.default_rng((0, stream)), augment=augment).images


@torch.no_grad()
def _encode(networks: Networks, clips: Image) -> Tensor:
    """Return the latents [D, F, TOKENS, dim] of clips."""
    return torch.stack([networks.encoder(torch.from_numpy(clip)) for clip in clips])


def _write_graphs(
    networks: Networks,
    clips: Image,
    unseen: Image,
    builder: BundleBuilder,
    settings: BundleSettings,
    controller: AccuracyController,
) -> dict[str, list[dict[str, str]]]:
    """Write all graphs; return the entries of those that differ between variants of the encoder."""
    folder, variants = builder.staging, settings.variants
    latents = _encode(networks, clips)
    write_graph(
        networks.encoder,
        _frames(clips),
        "latent",
        folder / "encoder",
        variants,
        held_out=HeldOutSamples(_frames(unseen), controller),
    )
    rollouts = calibration_samples(rollout_samples(latents, settings, seed=0))["predictor"]
    write_graph(
        PredictorGraph(networks.predictor),
        rollouts,
        "futures",
        folder / "predictor",
        variants,
        free_axis=("actions",),
        quantize=compress_int8,
    )
    entries = {"step": builder.write_steps(variants)}
    precisions = goal_variants(variants)
    for role, (module, states) in _readers(networks, settings).items():
        samples = _pairs(latents, states)
        write_graph(module, samples, role, folder / role, precisions, free_axis=("latents",))
        entries[role] = manifest_entries(role, precisions)
    return entries


def _readers(networks: Networks, settings: BundleSettings) -> dict[str, tuple[nn.Module, int]]:
    """Return the graphs that compare latents with a goal, and for how many latents their shapes are fixed."""
    return {
        "energy": (EnergyGraph(networks.head), settings.num_samples * settings.horizon),
        "relative_pose": (RelativePoseGraph(networks.head), POSE_BATCH),
    }


def _frames(clips: Image) -> list[Sample]:
    return [{"frame": frame[None]} for clip in clips for frame in clip]


def _pairs(latents: Tensor, count: int) -> list[Sample]:
    """Return samples of ``count`` latents each, and a goal from a drive that some of them are of."""
    flat = latents.flatten(0, 1).numpy()
    return [
        {"latents": flat[start : start + count], "goal": flat[start : start + 1]}
        for start in range(0, len(flat) - count + 1, count)
    ]


@torch.no_grad()
def _golden_outputs(networks: Networks, unseen: Image, settings: BundleSettings) -> dict[str, Tensor]:
    frames = torch.from_numpy(
        np.ascontiguousarray(unseen[0, :: len(unseen[0]) // GOLDEN_FRAMES][:GOLDEN_FRAMES])
    )
    latents = networks.encoder(frames)
    return {
        "frames": frames,
        "latents": latents,
        **{role: module(latents, latents[-1:]) for role, (module, _) in _readers(networks, settings).items()},
        **golden_futures(PredictorGraph(networks.predictor), latents, settings, seed=1),
    }


def _fields(
    identity: ModelIdentity,
    metrics: DriveMetrics,
    settings: BundleSettings,
    graphs: dict[str, list[dict[str, str]]],
    dim: int,
) -> dict[str, Any]:
    return create_manifest(
        identity,
        settings,
        MeasuredErrors(
            error_bounds=tuple(metrics.error_bounds),
            surprise_threshold=metrics.surprise_threshold,
            goal_threshold=metrics.goal_threshold,
        ),
        frame=FrameFormat(HEIGHT_PX, WIDTH_PX, (PIXEL_MEAN,) * 3, (PIXEL_STD,) * 3),
        latent=(TOKENS, dim),
        roles=("encoder", "predictor"),
        tolerances=TOLERANCES,
        others=graphs,
    )
