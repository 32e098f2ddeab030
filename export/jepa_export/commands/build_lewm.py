"""The work of jepa-export build --teacher lewm: the bundle of a LeWM, with the actions of recordings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from rich.console import Console

from jepa_export.bundling.lewm_bundle import sample_trajectories, write_lewm_bundle
from jepa_export.bundling.manifest_fields import BundleSettings, ModelIdentity
from jepa_export.bundling.staging import write_errors_reported
from jepa_export.bundling.task_progress import show_on
from jepa_export.bundling.variants import select_variants
from jepa_export.commands.build_student import DEFAULT_RATE_HZ, check_disk_space, print_steps
from jepa_export.commands.teacher_request import TeacherRequest
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data
from jepa_export.distillation.teacher_targets import open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import network_multiply_adds, parameters
from jepa_export.teachers.checkpoints import Teacher
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_runtime.commands import progress_on
from jepa_runtime.control import preset

# The default source with longer trajectories, which LeWM needs.
TWO_ROOMS = "two_rooms?trajectories=64&frames=48"


def build_lewm(request: TeacherRequest) -> int:
    """Print the cost of a LeWM, and write its bundle.

    Raises:
        JepaExportError: The bundle cannot be built.
        SourceError: The recordings cannot be read.
    """
    console, search = Console(), preset("lewm").search
    horizon = search.horizon if request.horizon is None else request.horizon
    variants = select_variants(request.targets, request.only)
    if request.frames is not None:
        raise JepaExportError(
            f"--frames is for other teachers: {request.teacher} plans from one frame",
            code="export.option_not_applicable",
        )
    if not 1 <= horizon <= 32:
        raise JepaExportError(
            f"--horizon must be between 1 and 32, got {horizon}", code="export.invalid_option"
        )
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
    check_disk_space(request.out, parameters(model), variants)
    with write_errors_reported(request.out):
        request.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=request.out.parent, prefix=f".{request.out.name}.") as cache:
            px = model.config.encoder.px
            source = TWO_ROOMS if request.calibration == "two_rooms" else request.calibration
            data = open_data([source], FrameStore(Path(cache), height=px, width=px), held_out=0)
            trajectories = sample_trajectories(
                data.train, action_dim=model.config.action_dim, horizon=horizon
            )
            settings = BundleSettings(
                actions=trajectories.action_space,
                history_size=1,
                horizon=horizon,
                num_samples=search.num_samples,
                step_s=trajectories.step_s,
                rate_hz=DEFAULT_RATE_HZ,
                variants=variants,
                command=request.command,
            )
            identity = _identity(request, teacher)
            with progress_on(console) as bars:
                write_lewm_bundle(
                    model,
                    trajectories,
                    request.out,
                    settings,
                    identity,
                    seed=request.seed,
                    progress=print_steps(console),
                    begin=show_on(bars),
                )
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _cost(name: str, model: LeWM, count: int, horizon: int) -> str:
    """Return the cost of one iteration of the planner, in words."""
    config = model.config
    inputs = torch.zeros(1, 1, 1, config.encoder.width), torch.zeros(1, horizon, config.action_dim)
    multiply_adds = count * network_multiply_adds(Rollout(model), *inputs)
    return (
        f"{name}: {parameters(model) / 1e6:.1f} M parameters; {count} futures of {horizon} steps need "
        f"{multiply_adds / 1e9:.1f} G multiply-adds"
    )


def _identity(request: TeacherRequest, teacher: Teacher) -> ModelIdentity:
    """Return the entries of the manifest about the weights."""
    trained = request.checkpoint is not None
    source = Path(request.calibration).name
    return ModelIdentity(
        model_id=request.teacher.lower(),
        version="1.0.0" if trained else "0.0.0-untrained",
        trained=trained,
        description=f"{request.teacher} (LeWM), from one frame; "
        + (
            "errors measured on few trajectories: calibrate on your own data"
            if trained
            else "random weights: its outputs mean nothing"
        ),
        licence=teacher.member.license,
        data=f"that of the teacher; actions standardized and errors measured on {source}"
        if trained
        else "none: random weights",
        teacher=teacher.provenance,
    )
