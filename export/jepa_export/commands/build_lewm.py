"""jepa-export build --teacher lewm: LeWM as it is, with the actions of recordings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from rich.console import Console

from jepa_export.bundling.lewm_bundle import walks_through, write_lewm
from jepa_export.bundling.manifest_fields import Identity, Settings
from jepa_export.bundling.staging import nothing_half_written
from jepa_export.bundling.variants import kinds_for
from jepa_export.commands.build import DEFAULT_RATE_HZ, check_space, steps_on
from jepa_export.commands.teacher_request import TeacherRequest
from jepa_export.data.frame_store import Store
from jepa_export.data.open_data import open_data
from jepa_export.distillation.teacher_targets import open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import of_network, parameters
from jepa_export.teachers.checkpoints import Teacher
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_runtime.control.presets import preset

# Of the default source, whose own trajectories are too short.
TWO_ROOMS = "two_rooms?trajectories=64&frames=48"


def build_lewm(request: TeacherRequest) -> int:
    """Write the bundle of a LeWM, saying first what it will cost.

    Raises:
        JepaExportError: the request cannot be met; the message says why.
        SourceError: the recordings cannot be read.
    """
    console, search = Console(), preset("lewm").search
    horizon = search.horizon if request.horizon is None else request.horizon
    kinds = kinds_for(request.targets, request.only)
    if request.frames is not None:
        raise JepaExportError(f"--frames is for other teachers: {request.teacher} plans from one frame")
    if not 1 <= horizon <= 32:
        raise JepaExportError(f"--horizon must be between 1 and 32, got {horizon}")
    teacher = open_teacher(
        request.teacher if request.checkpoint is None else f"{request.teacher}={request.checkpoint}",
        untrained=request.checkpoint is None,
        depth=request.depth,
        seed=request.seed,
        accept_non_commercial=request.accept_non_commercial,
    )
    model = teacher.model
    assert isinstance(model, LeWM)
    console.print(_cost(request.teacher, model, search.num_samples, horizon), highlight=False)
    check_space(request.out, parameters(model), kinds)
    with nothing_half_written(request.out):
        request.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=request.out.parent, prefix=f".{request.out.name}.") as cache:
            px = model.config.encoder.px
            source = TWO_ROOMS if request.calibration == "two_rooms" else request.calibration
            data = open_data([source], Store(Path(cache), height=px, width=px), held_out=0)
            walks = walks_through(data.train, action_dim=model.config.action_dim, horizon=horizon)
            settings = Settings(
                actions=walks.limits,
                history_size=1,
                horizon=horizon,
                num_samples=search.num_samples,
                step_s=walks.step_s,
                rate_hz=DEFAULT_RATE_HZ,
                variants=kinds,
                command=request.command,
            )
            identity = _identity(request, teacher)
            told = steps_on(console)
            write_lewm(model, walks, request.out, settings, identity, seed=request.seed, progress=told)
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _cost(name: str, model: LeWM, count: int, horizon: int) -> str:
    """What one plan's iteration computes."""
    config = model.config
    inputs = torch.zeros(1, 1, 1, config.encoder.width), torch.zeros(1, horizon, config.action_dim)
    work = count * of_network(Rollout(model), *inputs)
    return (
        f"{name}: {parameters(model) / 1e6:.1f} M parameters; {count} futures of {horizon} steps take "
        f"{work / 1e9:.1f} G multiply-adds"
    )


def _identity(request: TeacherRequest, teacher: Teacher) -> Identity:
    """What the bundle says of the weights."""
    trained = request.checkpoint is not None
    source = Path(request.calibration).name
    return Identity(
        model_id=request.teacher.lower(),
        version="1.0.0" if trained else "0.0.0-untrained",
        trained=trained,
        description=f"{request.teacher} (LeWM), from one frame; "
        + (
            "errors measured on few walks: measure them on your own"
            if trained
            else "random weights: its outputs mean nothing"
        ),
        licence=teacher.member.licence,
        data=f"that of the teacher; actions standardised, and errors, on {source}"
        if trained
        else "none: random weights",
        teacher=teacher.provenance,
    )
