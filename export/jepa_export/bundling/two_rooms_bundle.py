"""From trained networks to a bundle: convert, quantize, write golden outputs and bounds, seal.

The folder appears whole or not at all: everything is built beside it and moved into place at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch

from jepa_export.bundling.manifest_fields import (
    Actions,
    Identity,
    Measured,
    Settings,
    besides_manifest,
    manifest,
    write_golden,
)
from jepa_export.bundling.staging import staged, write_report
from jepa_export.bundling.variants import Kind
from jepa_export.data.training_world import TrainingWorld
from jepa_export.data.two_rooms_recordings import STEP_S
from jepa_export.errors import JepaExportError
from jepa_export.students.two_rooms_networks import LATENT_DIM, PIXEL_MEAN, PIXEL_STD
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import compress_int8, convert, quantize_int8, save
from jepa_export.training.dynamics import HORIZON
from jepa_export.training.two_rooms_recipe import TrainedModel
from jepa_export.training.world_metrics import WorldMetrics, goal_threshold, measure
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.bundle.manifest import MODEL_SUFFIX
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_sim.worlds.two_rooms_camera import FRAME_PX, Image

NUM_SAMPLES = 64
CALIBRATION_FRAMES = 256
GOLDEN_FRAMES = 3
GOLDEN_CANDIDATES = 4
TOLERANCES = {"fp32": {"min_cosine": 0.9999, "max_abs": 0.02}, "int8": {"min_cosine": 0.99, "max_abs": 0.3}}
_INT8: tuple[Kind, ...] = (("openvino", "int8"),)
_FP32: tuple[Kind, ...] = (("onnx", "fp32"),)
_CALIBRATION_STREAM, _STANDING_STREAM = 4, 5


def pack(
    model: TrainedModel,
    folder: Path,
    *,
    model_id: str,
    version: str,
    command: str,
    teacher: str | None = None,
    int8: bool = True,
) -> WorldMetrics:
    """Write the bundle ``folder`` (replaced if it exists), except for closed-loop scores.

    Args:
        teacher: what it was distilled from.
        int8: with a quantized form.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    with staged(folder) as staging:
        fidelity = measure(model.encoder, model.predictor, model.held_out, HORIZON)
        frames = model.course.record(
            (0, _CALIBRATION_STREAM),
            layouts=CALIBRATION_FRAMES // 4,
            trajectories=1,
            frames=4,
        ).frames.reshape(-1, FRAME_PX, FRAME_PX, 3)
        _write_graphs(model, frames, staging, int8=int8)
        _write_golden(model, frames[:: len(frames) // GOLDEN_FRAMES][:GOLDEN_FRAMES], staging)
        write_report(staging, {"open_loop": besides_manifest(fidelity)})
        standing = model.course.record(
            (0, _STANDING_STREAM),
            layouts=256,
            trajectories=1,
            frames=2,
            steady_light=0,
            standing=True,
        )
        threshold = goal_threshold(model.encoder, model.energy, standing)
        identity = Identity(
            model_id=model_id,
            version=version,
            trained=True,
            description=model.course.description,
            licence="Apache-2.0",
            data="simulated on the fly: frames and the actions between them, no labels",
            teacher=teacher,
        )
        fields = _fields(fidelity, threshold, identity, model.course, command, int8=int8)
        _check_golden(seal(staging, fields))
    return fidelity


def _check_golden(bundle: Bundle) -> None:
    for precision in bundle.manifest.golden.tolerances:
        for parity in golden_parity(bundle, engine="openvino:CPU", precision=precision):
            if not parity.ok:
                raise JepaExportError(
                    f"the {precision} {parity.graph} does not compute what the network does: "
                    f"{parity.figures}; nothing was written"
                )


def _candidates(model: TrainedModel, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Action sequences as the planner asks for them: [count, H, 2]."""
    top = np.full(2, model.course.top_speed, np.float32)
    limits = ActionLimits(low=-top, high=top, max_norm=model.course.top_speed)
    return CEM(CEMConfig(num_samples=count, horizon=HORIZON, topk=1), limits, seed=seed).ask()


def _write_graphs(model: TrainedModel, frames: Image, folder: Path, *, int8: bool) -> None:
    latents = _encode(model, frames)
    history = latents[:1, None]
    actions = _candidates(model, NUM_SAMPLES, 0)
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
    reduced: dict[str, Callable[[ov.Model], ov.Model]] = {
        "encoder": lambda model: quantize_int8(model, [{"frame": frame[None]} for frame in frames]),
        "predictor": compress_int8,
        # Its output decides when to stop, and it is small: full precision everywhere.
        "energy": lambda model: model,
    }
    for role, reduce in reduced.items():
        converted = convert(folder / role / "onnx" / "model.onnx")
        save(reduce(converted), folder / role / "openvino" / "model.xml")


@torch.no_grad()
def _encode(model: TrainedModel, frames: Image) -> torch.Tensor:
    latents: torch.Tensor = model.encoder(torch.from_numpy(np.ascontiguousarray(frames)))
    return latents


@torch.no_grad()
def _write_golden(model: TrainedModel, frames: Image, folder: Path) -> None:
    latents, actions = _encode(model, frames), torch.from_numpy(_candidates(model, GOLDEN_CANDIDATES, 1))
    write_golden(
        folder,
        frames=torch.from_numpy(frames),
        latents=latents,
        actions=actions,
        futures=torch.stack([model.predictor(latent[None, None], actions) for latent in latents]),
        energy=model.energy(latents, latents[-1:]),
    )


def _fields(
    fidelity: WorldMetrics,
    threshold: float,
    identity: Identity,
    course: TrainingWorld,
    command: str,
    *,
    int8: bool,
) -> dict[str, Any]:
    """The manifest's fields."""
    kinds = _INT8 * int8 + _FP32
    settings = Settings(
        actions=Actions(
            names=course.action_names,
            units=course.action_units,
            low=(-course.top_speed,) * 2,
            high=(course.top_speed,) * 2,
            max_norm=course.top_speed,
        ),
        history_size=1,
        horizon=HORIZON,
        num_samples=NUM_SAMPLES,
        step_s=STEP_S,
        rate_hz=30.0,
        variants=kinds,
        command=command,
    )
    measured = Measured(
        error_bounds=tuple(fidelity.error_bounds),
        surprise_threshold=fidelity.surprise_threshold,
        goal_threshold=threshold,
    )
    fields = manifest(
        identity, settings, measured, px=FRAME_PX, latent=(2, LATENT_DIM), roles=(), tolerances=TOLERANCES
    )
    fields["io"]["frame"] |= {"mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)}
    fields["graphs"] = {
        role: [
            {
                "target": target,
                "precision": "fp32" if role == "energy" else precision,
                "path": f"{role}/{target}/model{MODEL_SUFFIX[target]}",
            }
            for target, precision in kinds
        ]
        for role in ("encoder", "predictor", "energy")
    }
    return fields
