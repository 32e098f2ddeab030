"""A bundle of a student: its graphs in fp32 and INT8, calibrated on real frames, and what they must compute.

Its predictor was not measured on held-out recordings here: error bounds and thresholds are zeros, which only
a bundle of random weights may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.errors import JepaExportError
from jepa_export.staging import commit, staged, write_report
from jepa_export.student_graphs import write_graph, write_predictor
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD
from jepa_export.students.family import Student
from jepa_export.targets.openvino import Sample
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.planning.cem import CEM, ActionLimits, CEMConfig
from jepa_runtime.verification import golden_parity

# Each gives a sample a step.
ROLLOUTS = 8
GOLDEN_FRAMES = 2
GOLDEN_CANDIDATES = 4
# Random weights amplify rounding more than trained ones: INT8 is checked for sanity, not for accuracy.
TOLERANCES = {"fp32": {"min_cosine": 0.9999, "max_abs": 0.02}, "int8": {"min_cosine": 0.9, "max_abs": 2.0}}
VARIANTS = (("openvino", "int8"), ("openvino", "fp32"), ("onnx", "fp32"))


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What the robot can be told, as in the manifest."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_norm: float | None

    @property
    def scale(self) -> tuple[float, ...]:
        """The largest magnitude of each component."""
        return tuple(max(-low, high) for low, high in zip(self.low, self.high, strict=True))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the bundle is told to be. W = ``history_size``, H = ``horizon``, K = ``num_samples``; ``step_s``
    is how long an action is held; ``rate_hz`` the rate of the frames; ``variants``: which of :data:`VARIANTS`
    the bundle has, the preferred first: a robot needs one."""

    actions: Actions
    history_size: int
    horizon: int
    num_samples: int
    step_s: float
    rate_hz: float
    variants: tuple[tuple[str, str], ...]
    command: str


def write_untrained(
    student: Student,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists) of a student with random weights.

    Args:
        frames: uint8 [n, px, px, 3] to calibrate on, at least ``history_size`` and two.
        progress: told in words what comes next.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    with staged(folder) as staging:
        progress("encoding the frames")
        latents = _encode(student, frames)
        rollouts = _predictor_samples(latents, settings, seed)
        progress(f"encoder: to ONNX and OpenVINO, and to INT8, calibrated on {len(frames)} frames")
        encoder_samples: list[Sample] = [{"frame": frame[None]} for frame in frames]
        write_graph(student.encoder, encoder_samples, "latent", staging / "encoder")
        progress(f"step: the same, calibrated on {len(rollouts)} samples")
        one = [_first_step_of_one(sample) for sample in rollouts]
        write_graph(student.predictor, one, "futures", staging / "step")
        progress(f"predictor: the same, calibrated on {ROLLOUTS} rollouts")
        write_predictor(
            student.predictor, rollouts[:: max(1, len(rollouts) // ROLLOUTS)], staging / "predictor"
        )
        for target, precision in set(VARIANTS) - set(settings.variants):
            for path in list(staging.glob(f"*/{target}/model_{precision}.*")):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
        progress("golden outputs, and whether each graph reproduces them")
        _write_golden(student, frames, settings, staging / "golden.npz", seed)
        write_report(staging, {"parity": []})
        bundle = seal(staging, _manifest(student, settings))
        write_report(staging, {"parity": _parity(bundle, settings)})
        seal(staging, bundle.manifest)
    return Bundle.open(folder)


def _first_step_of_one(sample: Sample) -> Sample:
    """What is predicted for the next frame alone, from the action that is executed."""
    return sample | {"actions": sample["actions"][:1, :1]}


@torch.no_grad()
def _encode(student: Student, frames: NDArray[np.uint8]) -> Tensor:
    return torch.cat([student.encoder(torch.from_numpy(frame[None])) for frame in frames])


def _candidates(settings: Settings, count: int, seed: int) -> NDArray[np.float32]:
    """Action sequences as the planner asks for them: [count, H, A]."""
    actions = settings.actions
    low, high = (np.array(limit, np.float32) for limit in (actions.low, actions.high))
    limits = ActionLimits(low=low, high=high, max_norm=actions.max_norm)
    return CEM(CEMConfig(num_samples=count, horizon=settings.horizon, topk=1), limits, seed=seed).ask()


def _predictor_samples(latents: Tensor, settings: Settings, seed: int) -> list[Sample]:
    """Inputs of the predictor: latents of frames that follow each other, and candidates of a planner."""
    size = settings.history_size
    samples: list[Sample] = []
    for start in range(len(latents) - size + 1):
        sample: Sample = {
            "history_latents": latents[None, start : start + size].numpy(),
            "actions": _candidates(settings, settings.num_samples, seed + start),
        }
        if size > 1:
            sample["history_actions"] = _candidates(settings, size - 1, seed + start)[None, :, 0]
        samples.append(sample)
    return samples


@torch.no_grad()
def _write_golden(
    student: Student, frames: NDArray[np.uint8], settings: Settings, path: Path, seed: int
) -> None:
    size = settings.history_size
    chosen = frames[:: max(1, len(frames) // GOLDEN_FRAMES)][:GOLDEN_FRAMES]
    latents = _encode(student, chosen)
    actions = torch.from_numpy(_candidates(settings, GOLDEN_CANDIDATES, seed))
    standing = torch.zeros(1, size - 1, actions.shape[2]) if size > 1 else None
    futures = [
        student.predictor(latent.expand(1, size, *latent.shape), actions, standing) for latent in latents
    ]
    np.savez_compressed(
        path,
        frames=chosen,
        latents=latents.numpy(),
        actions=actions.numpy(),
        futures=torch.stack(futures).numpy(),
        goal=latents[-1:].numpy(),
    )


def _parity(bundle: Bundle, settings: Settings) -> list[dict[str, Any]]:
    """How closely OpenVINO reproduces the golden outputs in each precision, as report.json keeps it."""
    found = [
        parity
        for precision in [precision for target, precision in settings.variants if target == "openvino"]
        for parity in golden_parity(bundle, engine="openvino:CPU", precision=precision)
    ]
    for parity in found:
        if not parity.ok:
            raise JepaExportError(
                f"the {parity.precision} {parity.graph} does not compute what the network does: worst cosine "
                f"{parity.min_cosine:.4f}, largest difference {parity.max_abs:.3f}; nothing was written"
            )
    return [
        {
            "graph": parity.graph,
            "precision": parity.precision,
            "min_cosine": parity.min_cosine,
            "max_abs": parity.max_abs,
        }
        for parity in found
    ]


def _manifest(student: Student, settings: Settings) -> dict[str, Any]:
    config, actions = student.encoder.config, settings.actions

    def variants(role: str) -> list[dict[str, str]]:
        suffixes = {"openvino": "xml", "onnx": "onnx"}
        return [
            {
                "target": target,
                "precision": precision,
                "path": f"{role}/{target}/model_{precision}.{suffixes[target]}",
            }
            for target, precision in settings.variants
        ]

    return {
        "model_id": student.name,
        "version": "0.0.0-untrained",
        "release_seq": 1,
        "trained": False,
        "description": f"{student.name} with random weights: for measuring speed; its outputs mean nothing",
        "licence": "Apache-2.0",
        "provenance": {
            "data": "none: random weights",
            "teacher": None,
            "commit": commit(),
            "command": settings.command,
        },
        "io": {
            "frame": {
                "height": config.px,
                "width": config.px,
                "channels": 3,
                "layout": "NHWC",
                "dtype": "uint8",
                "color": "rgb",
                "rate_hz": settings.rate_hz,
                "mean": list(PIXEL_MEAN),
                "std": list(PIXEL_STD),
            },
            "latent": {"tokens": config.tokens, "dim": config.dim, "dtype": "float32"},
            "action": {
                "names": list(actions.names),
                "units": list(actions.units),
                "low": list(actions.low),
                "high": list(actions.high),
                "max_norm": actions.max_norm,
            },
            "step_s": settings.step_s,
        },
        "history_size": settings.history_size,
        "horizon": settings.horizon,
        "num_samples": settings.num_samples,
        "graphs": {role: variants(role) for role in ("encoder", "predictor", "step")} | {"energy": []},
        "error_bounds": [0.0] * settings.horizon,
        "surprise_threshold": 0.0,
        "goal_threshold": 0.0,
        "golden": {"path": "golden.npz", "tolerances": TOLERANCES},
    }
