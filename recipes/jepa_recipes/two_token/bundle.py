"""The bundle of a two-token world model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch

from jepa_export.bundling.builder import build_bundle
from jepa_export.bundling.bundle_networks import PrefixPredictor
from jepa_export.bundling.manifest_fields import (
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
    report_fields,
)
from jepa_export.bundling.predictor_bundle import encoder_variants, write_predictor_bundle
from jepa_export.bundling.student_bundle import GOLDEN_CANDIDATES, GOLDEN_FRAMES, sample_candidates
from jepa_export.bundling.variants import DEFAULT_TARGETS, VariantKey
from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.distillation.frozen_encoders import BundleEncoder
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import compress_int8, convert, quantize_int8, save
from jepa_recipes.training_worlds.interface import TrainingWorld
from jepa_recipes.two_token.dynamics import HORIZON
from jepa_recipes.two_token.metrics import WorldMetrics, goal_threshold, measure
from jepa_recipes.two_token.networks import (
    LATENT_DIM,
    PIXEL_MEAN,
    PIXEL_STD,
    ActionPrefixPredictor,
    Predictor,
)
from jepa_recipes.two_token.training import TrainedModel
from jepa_runtime.bundle import Bundle, model_suffix
from jepa_sim.worlds.two_rooms_camera import FRAME_PX, Image

NUM_SAMPLES = 64
CALIBRATION_FRAMES = 256
TOLERANCES = {"fp32": {"min_cosine": 0.9999, "max_abs": 0.02}, "int8": {"min_cosine": 0.99, "max_abs": 0.3}}
_INT8: tuple[VariantKey, ...] = (("openvino", "int8"),)
_FP32: tuple[VariantKey, ...] = (("onnx", "fp32"),)
_CALIBRATION_STREAM, _STANDING_STREAM = 4, 5


def write_two_token_bundle(
    model: TrainedModel,
    folder: Path,
    *,
    model_id: str,
    version: str,
    command: str,
    teacher: str | None = None,
    int8: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> WorldMetrics:
    """Write the bundle ``folder`` of a trained model; an existing bundle is replaced.

    Args:
        model: Trained networks.
        folder: Destination.
        model_id: Id for the manifest.
        version: Version for the manifest.
        command: Command line for the provenance.
        teacher: What the model was distilled from.
        int8: Whether the bundle gets a quantized variant.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.

    Returns:
        The metrics of the model on held-out layouts.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    identity = ModelIdentity(
        model_id=model_id,
        version=version,
        trained=True,
        description=model.training_world.description,
        licence="Apache-2.0",
        data="simulated on the fly: frames and the actions between them, no labels",
        teacher=teacher,
    )
    variants = _INT8 * int8 + _FP32
    settings = _settings(model.training_world, command, variants)
    with build_bundle(folder, progress) as builder:
        metrics = measure(model.encoder, model.predictor, model.held_out, HORIZON)
        world = model.training_world.held_out()
        frames = world.record(
            (0, _CALIBRATION_STREAM),
            layouts=CALIBRATION_FRAMES // 4,
            trajectories=1,
            frames=4,
        ).frames.reshape(-1, FRAME_PX, FRAME_PX, 3)
        _write_graphs(model, frames, builder.staging, settings=settings, int8=int8)
        golden_frames = frames[:: len(frames) // GOLDEN_FRAMES][:GOLDEN_FRAMES]
        builder.write_golden_outputs(**_golden_outputs(model, settings, golden_frames))
        standing = world.record(
            (0, _STANDING_STREAM),
            layouts=256,
            trajectories=1,
            frames=2,
            steady_light=0,
            standing=True,
        )
        measured = MeasuredErrors(
            error_bounds=tuple(metrics.error_bounds),
            surprise_threshold=metrics.surprise_threshold,
            goal_threshold=goal_threshold(model.encoder, model.energy, standing),
        )
        fields = _fields(identity, settings, measured)
        builder.finish(fields, {"open_loop": report_fields(metrics)})
    return metrics


def write_distilled_predictor(
    base: Bundle,
    predictor: Predictor | ActionPrefixPredictor,
    held_out: Recordings,
    folder: Path,
    *,
    command: str,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> WorldMetrics:
    """Write the bundle ``folder`` with the encoder and the energy of ``base`` and another predictor.

    It has the variants of ``base`` for the default targets; `jepa-export add-variant` adds others.

    Args:
        base: Bundle that the predictor was trained for.
        predictor: Predictor in evaluation mode.
        held_out: Recordings to measure errors on.
        folder: Destination; an existing bundle is replaced.
        command: Command line for the provenance.
        seed: Seed of the candidates that variants are verified with.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.

    Returns:
        The metrics of the model on held-out layouts.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    manifest, encoder = base.manifest, BundleEncoder(base)
    metrics = measure(encoder, predictor, held_out, HORIZON)
    all_at_once = isinstance(predictor, ActionPrefixPredictor)
    described = "in one call" if all_at_once else "step by step"
    identity = ModelIdentity(
        model_id=manifest.model_id,
        version=f"{manifest.version}-{'prefixes' if all_at_once else 'recursive'}",
        trained=True,
        description=f"{manifest.description}; a smaller predictor that predicts all steps {described}",
        licence=manifest.licence,
        data=manifest.provenance.data,
        teacher=f"the predictor of {manifest.model_id} {manifest.version}",
    )
    settings = BundleSettings(
        actions=ActionSpace(**manifest.io.action.model_dump()),
        history_size=1,
        horizon=HORIZON,
        num_samples=manifest.num_samples,
        step_s=manifest.io.step_s,
        rate_hz=manifest.io.frame.rate_hz,
        variants=encoder_variants(base, DEFAULT_TARGETS),
        command=command,
    )
    measured = MeasuredErrors(
        error_bounds=tuple(metrics.error_bounds),
        surprise_threshold=metrics.surprise_threshold,
        goal_threshold=manifest.goal_threshold,
    )
    write_predictor_bundle(
        base,
        encoder,
        PrefixPredictor(predictor),
        held_out.frames[:, 0, :GOLDEN_FRAMES],
        folder,
        settings,
        identity,
        measured,
        seed=seed,
        progress=progress,
        report={"open_loop": report_fields(metrics)},
    )
    return metrics


def _settings(
    training_world: TrainingWorld, command: str, variants: tuple[VariantKey, ...]
) -> BundleSettings:
    return BundleSettings(
        actions=ActionSpace(
            names=training_world.action_names,
            units=training_world.action_units,
            low=(-training_world.top_speed,) * 2,
            high=(training_world.top_speed,) * 2,
            max_norm=training_world.top_speed,
        ),
        history_size=1,
        horizon=HORIZON,
        num_samples=NUM_SAMPLES,
        step_s=training_world.step_s,
        rate_hz=30.0,
        variants=variants,
        command=command,
    )


def _write_graphs(
    model: TrainedModel, frames: Image, folder: Path, *, settings: BundleSettings, int8: bool
) -> None:
    latents = _encode(model, frames)
    history = latents[:1, None]
    actions = sample_candidates(settings, NUM_SAMPLES, 0)
    graphs: dict[str, tuple[torch.nn.Module, dict[str, torch.Tensor], str, tuple[str, ...]]] = {
        "encoder": (model.encoder, {"frame": torch.from_numpy(frames[:1])}, "latent", ()),
        "predictor": (
            model.predictor,
            {"history_latents": history, "actions": torch.from_numpy(actions)},
            "futures",
            ("actions",),
        ),
        "energy": (model.energy, {"latents": latents, "goal": latents[:1]}, "energy", ("latents",)),
    }
    for role, (module, inputs, output, free_axis) in graphs.items():
        export_onnx(module, inputs, [output], folder / role / "onnx" / "model.onnx", free_axis=free_axis)
    if not int8:
        return
    reductions: dict[str, Callable[[ov.Model], ov.Model]] = {
        "encoder": lambda model: quantize_int8(model, [{"frame": frame[None]} for frame in frames]),
        "predictor": compress_int8,
        # The energy decides when the robot stops, and its graph is small: full precision in every variant.
        "energy": lambda model: model,
    }
    for role, reduce in reductions.items():
        converted = convert(folder / role / "onnx" / "model.onnx")
        save(reduce(converted), folder / role / "openvino" / "model.xml")


@torch.no_grad()
def _encode(model: TrainedModel, frames: Image) -> torch.Tensor:
    latents: torch.Tensor = model.encoder(torch.from_numpy(np.ascontiguousarray(frames)))
    return latents


@torch.no_grad()
def _golden_outputs(model: TrainedModel, settings: BundleSettings, frames: Image) -> dict[str, torch.Tensor]:
    latents = _encode(model, frames)
    actions = torch.from_numpy(sample_candidates(settings, GOLDEN_CANDIDATES, 1))
    return {
        "frames": torch.from_numpy(frames),
        "latents": latents,
        "actions": actions,
        "futures": torch.stack([model.predictor(latent[None, None], actions) for latent in latents]),
        "energy": model.energy(latents, latents[-1:]),
    }


def _fields(identity: ModelIdentity, settings: BundleSettings, measured: MeasuredErrors) -> dict[str, Any]:
    """Return the manifest's fields; energy is fp32 in every variant, and file names carry no precision."""
    fields = create_manifest(
        identity,
        settings,
        measured,
        frame=FrameFormat(FRAME_PX, FRAME_PX, PIXEL_MEAN, PIXEL_STD),
        latent=(2, LATENT_DIM),
        roles=(),
        tolerances=TOLERANCES,
    )
    fields["graphs"] = {
        role: [
            {
                "target": target,
                "precision": "fp32" if role == "energy" else precision,
                "path": f"{role}/{target}/model{model_suffix(target)}",
            }
            for target, precision in settings.variants
        ]
        for role in ("encoder", "predictor", "energy")
    }
    return fields
