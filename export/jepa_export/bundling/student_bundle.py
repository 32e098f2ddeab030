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

from jepa_export.bundling.manifest_fields import (
    Identity,
    Measured,
    Settings,
    complete,
    manifest,
    write_golden,
)
from jepa_export.bundling.staging import staged
from jepa_export.bundling.student_graphs import write_graph, write_predictor, write_step
from jepa_export.quantization.accuracy_control import DEFAULT_LIMITS, Closeness, Control, Held
from jepa_export.students.family import Student
from jepa_export.students.predictor import Predictor
from jepa_export.targets.openvino import Sample
from jepa_runtime.bundle import Bundle, history_indices
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig

# Each gives a sample a step.
ROLLOUTS = 8
# Fewer, and a history read backwards would be the same.
GOLDEN_FRAMES = 3
GOLDEN_CANDIDATES = 4
# Random weights amplify rounding more than trained ones: INT8 is checked for sanity, not for accuracy.
TOLERANCES = {
    "fp32": {"min_cosine": 0.9999, "max_abs": 0.02},
    "fp16": {"min_cosine": 0.999, "max_abs": 0.2},
    "bf16": {"min_cosine": 0.99, "max_abs": 0.3},
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
    :func:`write_student`. ``frames``: uint8 [n, px, px, 3] that follow each other.
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
    return write_student(
        student, frames[None], folder, settings, identity, nothing, seed=seed, progress=progress
    )


def write_student(
    student: Student,
    clips: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    identity: Identity,
    measured: Measured,
    *,
    seed: int,
    progress: Callable[[str], None],
    report: dict[str, Any] | None = None,
    held_out: NDArray[np.uint8] | None = None,
    limits: Closeness = DEFAULT_LIMITS,
    seen: bool = False,
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists) of a student.

    Args:
        clips: uint8 [C, n, px, px, 3] to calibrate on, of at least ``history_size`` frames each; at least
            two frames.
        seed: of the actions to calibrate on.
        progress: told in words what comes next.
        report: for report.json, besides what is found here.
        held_out: clips like ``clips``, which nothing is calibrated on: on them INT8 is measured and held to
            ``limits``, see :class:`~jepa_export.quantization.accuracy_control.Control`. None: INT8 is as it
            comes.
        seen: for want of others, ``held_out`` are among those calibrated on.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    kinds, control = settings.variants, Control(limits, progress, seen=seen)
    with staged(folder) as staging:
        progress("encoding the frames")
        samples = _samples(student, clips, settings, seed)
        # The others have candidates of their own.
        others = seed + len(samples["step"])
        unseen = {} if held_out is None else _samples(student, held_out, settings, others)
        held = {role: Held(each, control) for role, each in unseen.items()}
        progress(f"encoder: its graphs, calibrated on {len(samples['encoder'])} frames")
        write_graph(
            student.encoder,
            samples["encoder"],
            "latent",
            staging / "encoder",
            kinds,
            held=held.get("encoder"),
        )
        progress(f"step: the same, calibrated on {len(samples['step'])} samples")
        write_step(student.predictor, samples["step"], staging / "step", kinds, held=held.get("step"))
        progress(f"predictor: the same, calibrated on {len(samples['predictor'])} rollouts")
        write_predictor(
            student.predictor, samples["predictor"], staging / "predictor", kinds, held=held.get("predictor")
        )
        _write_golden(student, clips.reshape(-1, *clips.shape[2:]), settings, staging, seed)
        config = student.encoder.config
        fields = manifest(
            identity,
            settings,
            measured,
            px=config.px,
            latent=(config.tokens, config.dim),
            roles=("encoder", "predictor", "step"),
            tolerances=TOLERANCES,
        )
        complete(staging, fields, (report or {}) | control.report(), progress)
    return Bundle.open(folder)


def _samples(
    student: Student, clips: NDArray[np.uint8], settings: Settings, seed: int
) -> dict[str, list[Sample]]:
    """Inputs of each graph."""
    followed = rollouts(torch.stack([_encode(student, clip) for clip in clips]), settings, seed)
    return {
        "encoder": [{"frame": frame[None]} for clip in clips for frame in clip],
        **calibration(followed),
    }


def calibration(followed: list[Sample]) -> dict[str, list[Sample]]:
    """Of :func:`rollouts`, what the predictor is calibrated on, and the step: that predicts the next frame
    alone, from the action that is executed. (The first candidate is the plan, which has no action yet.)"""
    return {
        "predictor": followed[:: max(1, len(followed) // ROLLOUTS)],
        "step": [sample | {"actions": sample["actions"][-1:, :1]} for sample in followed],
    }


@torch.no_grad()
def _encode(student: Student, frames: NDArray[np.uint8]) -> Tensor:
    return torch.cat([student.encoder(torch.from_numpy(frame[None])) for frame in frames])


def candidates(settings: Settings, count: int, seed: int) -> NDArray[np.float32]:
    """Action sequences as the planner asks for them: [count, H, A]."""
    actions = settings.actions
    low, high = (np.array(limit, np.float32) for limit in (actions.low, actions.high))
    limits = ActionLimits(low=low, high=high, max_norm=actions.max_norm)
    return CEM(CEMConfig(num_samples=count, horizon=settings.horizon, topk=1), limits, seed=seed).ask()


def rollouts(latents: Tensor, settings: Settings, seed: int) -> list[Sample]:
    """Inputs of the predictor: every history in the latents [C, n, T, D] of clips, and candidates of a
    planner."""
    size = settings.history_size
    samples: list[Sample] = []
    for history in latents.unfold(1, size, 1).movedim(-1, 2).flatten(0, 1):
        own = seed + len(samples)
        sample: Sample = {
            "history_latents": history[None].numpy(),
            "actions": candidates(settings, settings.num_samples, own),
        }
        if size > 1:
            sample["history_actions"] = candidates(settings, size, own)[None, 1:, 0]
        samples.append(sample)
    return samples


@torch.no_grad()
def golden_futures(predictor: Predictor, latents: Tensor, settings: Settings, seed: int) -> dict[str, Tensor]:
    """Candidates, and the futures of each history of latents [n, T, D]: ``actions``, ``futures`` and, of a
    longer history, ``history_actions`` of :class:`jepa_runtime.bundle.GoldenOutputs`."""
    size = settings.history_size
    actions = torch.from_numpy(candidates(settings, GOLDEN_CANDIDATES, seed))
    given = {"actions": actions}
    if size > 1:
        given["history_actions"] = torch.from_numpy(candidates(settings, size, seed)[1:, 0])
    past = given["history_actions"][None] if size > 1 else None
    pasts = latents[torch.from_numpy(history_indices(len(latents), size))]
    return given | {"futures": torch.stack([predictor(each[None], actions, past) for each in pasts])}


def _write_golden(
    student: Student, frames: NDArray[np.uint8], settings: Settings, folder: Path, seed: int
) -> None:
    chosen = frames[:: max(1, len(frames) // GOLDEN_FRAMES)][:GOLDEN_FRAMES]
    latents = _encode(student, chosen)
    given = golden_futures(student.predictor, latents, settings, seed)
    write_golden(folder, frames=torch.from_numpy(chosen), latents=latents, **given)
