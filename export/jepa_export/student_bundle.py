"""A bundle of a student: its graphs in the forms that are asked for, calibrated on real frames, and what they
must compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.bundles import Actions, Identity, Measured, Settings, complete, manifest, write_golden
from jepa_export.staging import staged
from jepa_export.student_graphs import write_graph, write_predictor
from jepa_export.students.family import Student
from jepa_export.targets.openvino import Sample
from jepa_export.variants import DEFAULT_KINDS as VARIANTS
from jepa_runtime.bundle import Bundle
from jepa_runtime.planning.cem import CEM, ActionLimits, CEMConfig

__all__ = ["VARIANTS", "Actions", "Settings", "write_student", "write_untrained"]

# Each gives a sample a step.
ROLLOUTS = 8
GOLDEN_FRAMES = 2
GOLDEN_CANDIDATES = 4
# Random weights amplify rounding more than trained ones: INT8 is checked for sanity, not for accuracy.
TOLERANCES = {
    "fp32": {"min_cosine": 0.9999, "max_abs": 0.02},
    "fp16": {"min_cosine": 0.999, "max_abs": 0.2},
    "int8": {"min_cosine": 0.9, "max_abs": 2.0},
}


def write_untrained(
    student: Student,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Bundle:
    """Write the bundle of a student with random weights, whose errors were not measured: see
    :func:`write_student`.
    """
    identity = Identity(
        model_id=student.name,
        version="0.0.0-untrained",
        trained=False,
        description=f"{student.name} with random weights: for measuring speed; its outputs mean nothing",
        licence="Apache-2.0",
        data="none: random weights",
        teacher=None,
    )
    nothing = Measured.nothing(settings.horizon)
    return write_student(student, frames, folder, settings, identity, nothing, seed=seed, progress=progress)


def write_student(
    student: Student,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    identity: Identity,
    measured: Measured,
    *,
    seed: int,
    progress: Callable[[str], None],
    report: dict[str, Any] | None = None,
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists) of a student.

    Args:
        frames: uint8 [n, px, px, 3] to calibrate on, at least ``history_size`` and two.
        seed: of the actions to calibrate on.
        progress: told in words what comes next.
        report: for report.json, besides what is found here.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    kinds = settings.variants
    with staged(folder) as staging:
        progress("encoding the frames")
        latents = _encode(student, frames)
        rollouts = _predictor_samples(latents, settings, seed)
        progress(f"encoder: its graphs, calibrated on {len(frames)} frames")
        encoder_samples: list[Sample] = [{"frame": frame[None]} for frame in frames]
        write_graph(student.encoder, encoder_samples, "latent", staging / "encoder", kinds)
        progress(f"step: the same, calibrated on {len(rollouts)} samples")
        one = [_first_step_of_one(sample) for sample in rollouts]
        write_graph(student.predictor, one, "futures", staging / "step", kinds)
        progress(f"predictor: the same, calibrated on {ROLLOUTS} rollouts")
        some = rollouts[:: max(1, len(rollouts) // ROLLOUTS)]
        write_predictor(student.predictor, some, staging / "predictor", kinds)
        _write_golden(student, frames, settings, staging, seed)
        config = student.encoder.config
        fields = manifest(
            identity,
            settings,
            measured,
            px=config.px,
            latent=(config.tokens, config.dim),
            roles=("encoder", "predictor", "step"),
            tolerances={precision: TOLERANCES[precision] for _, precision in kinds},
        )
        complete(staging, fields, report or {}, progress)
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
    student: Student, frames: NDArray[np.uint8], settings: Settings, folder: Path, seed: int
) -> None:
    size = settings.history_size
    chosen = torch.from_numpy(frames[:: max(1, len(frames) // GOLDEN_FRAMES)][:GOLDEN_FRAMES])
    latents = torch.cat([student.encoder(frame[None]) for frame in chosen])
    actions = torch.from_numpy(_candidates(settings, GOLDEN_CANDIDATES, seed))
    standing = torch.zeros(1, size - 1, actions.shape[2]) if size > 1 else None
    futures = [
        student.predictor(latent.expand(1, size, *latent.shape), actions, standing) for latent in latents
    ]
    write_golden(folder, frames=chosen, latents=latents, actions=actions, futures=torch.stack(futures))
