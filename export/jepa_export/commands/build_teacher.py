"""The work of jepa-export build --teacher: the bundle of a published model, unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from jepa_export.bundling import vjepa2_ac_bundle
from jepa_export.bundling.manifest_fields import NO_ACTIONS, BundleSettings, ModelIdentity
from jepa_export.bundling.staging import check_output
from jepa_export.bundling.task_progress import show_on
from jepa_export.bundling.teacher_bundle import (
    TEACHER_VARIANTS,
    BundleCost,
    bundle_cost,
    check_teacher,
    steps_read,
    write_teacher_bundle,
)
from jepa_export.bundling.variants import select_variants
from jepa_export.commands.build_lewm import build_lewm
from jepa_export.commands.build_student import (
    DEFAULT_RATE_HZ,
    check_disk_space,
    print_steps,
    read_calibration,
)
from jepa_export.commands.teacher_request import STILL, TeacherRequest
from jepa_export.distillation.causal_encoder import read_causal_encoder
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import multiply_adds_per_second, parameters
from jepa_export.targets.onnx import check_size
from jepa_export.teachers.checkpoints import Settings, inspect, read
from jepa_export.teachers.checkpoints.architecture import describe_config
from jepa_export.teachers.family import Member, find_teacher, is_family, shallow
from jepa_export.teachers.layers import Block
from jepa_export.teachers.lewm import LeWMConfig
from jepa_export.teachers.vjepa2 import VJEPA2, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import STATE_NAMES, STATE_UNITS, STEP_S, VJEPA2AC, VJEPA2ACConfig
from jepa_runtime.bundle import StateSpec
from jepa_runtime.commands import progress_on
from jepa_runtime.control import preset
from jepa_runtime.sources import split_spec

DEFAULT_FRAMES, DEFAULT_HORIZON = 8, 4
AC_NUM_SAMPLES = 16
"""Candidates that a V-JEPA 2-AC predicts at once; planners evaluate more in several calls."""


def build_teacher(request: TeacherRequest) -> int:
    """Print the cost of a teacher, and write its bundle.

    Raises:
        JepaExportError: The bundle cannot be built.
        SourceError: The source of frames cannot be read.
    """
    console = Console()
    check_output(request.out)
    if request.checkpoint is not None and request.depth is not None:
        raise JepaExportError(
            "--depth is for random weights: a checkpoint has all of its blocks",
            code="export.option_not_applicable",
        )
    member = _member(request)
    if request.time != STILL and not isinstance(member.config, VJEPA2Config):
        raise JepaExportError(
            f"--time clip and causal are for V-JEPA 2 and 2.1: the predictor of {request.teacher} "
            f"({member.family}) was trained on frames that are encoded alone",
            code="export.option_not_applicable",
        )
    if request.causal_encoder is not None and not (request.time.causal and request.checkpoint):
        raise JepaExportError(
            "--causal-encoder is for --time causal and the --checkpoint that it was trained from",
            code="export.option_not_applicable",
        )
    if isinstance(member.config, LeWMConfig):
        return build_lewm(request)
    if isinstance(member.config, VJEPA2ACConfig):
        return _build_vjepa2_ac(console, request, member, member.config)
    variants = select_variants(request.targets, request.only, offered=TEACHER_VARIANTS)
    length = DEFAULT_FRAMES if request.frames is None else request.frames
    horizon = DEFAULT_HORIZON if request.horizon is None else request.horizon
    request = replace(request, frames=length, horizon=horizon)
    causal, clip_frames = request.time.causal, request.time.frames
    if causal and clip_frames is None:
        clip_frames = length
    config = check_teacher(
        request.teacher,
        member,
        frames=length,
        horizon=horizon,
        clip_frames=clip_frames,
        causal=causal,
        depth=request.depth,
        accept_non_commercial=request.accept_non_commercial,
    )
    size = length // config.encoder.tubelet
    cost = bundle_cost(config, size, horizon, clip_frames, causal=causal)
    _announce(console, request, config, cost, cost_table(request.teacher, cost, size, horizon), len(variants))
    check_disk_space(request.out, cost.weight_bytes // 4, variants)
    needed = steps_read(config, size, horizon, clip_frames)
    frames, _ = read_calibration(
        request.calibration,
        config.encoder.frame_size,
        step_s=config.step_s,
        maximum=needed,
        minimum=needed,
        frames_per_step=config.encoder.tubelet,
    )
    about = "each frame encoded as a still clip, predicting without actions"
    rate_hz = DEFAULT_RATE_HZ
    if clip_frames is not None:
        about = f"clips of {clip_frames} frames encoded once per step, predicting without actions"
        if causal:
            trained = "" if request.causal_encoder is None else " by an encoder that was trained for it"
            about = (
                f"each step encoded with a cache of {clip_frames} frames{trained}, predicting without actions"
            )
        rate_hz = config.encoder.tubelet / config.step_s
    model, identity = _model(request, member, config, about)
    assert isinstance(model, VJEPA2)
    encoder = model.encoder if causal else None
    if request.causal_encoder is not None and clip_frames is not None:
        encoder = read_causal_encoder(model, request.causal_encoder, clip_frames // config.encoder.tubelet)
    settings = BundleSettings(
        actions=NO_ACTIONS,
        history_size=size,
        horizon=horizon,
        num_samples=1,
        step_s=config.step_s,
        rate_hz=rate_hz,
        variants=variants,
        command=request.command,
    )
    with progress_on(console) as bars:
        progress, begin = print_steps(console), show_on(bars)
        write_teacher_bundle(
            model,
            frames,
            request.out,
            settings,
            identity,
            progress,
            begin,
            clip_frames=clip_frames,
            causal=encoder,
        )
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _build_vjepa2_ac(
    console: Console, request: TeacherRequest, member: Member, config: VJEPA2ACConfig
) -> int:
    """Print the cost of a V-JEPA 2-AC, and write its bundle."""
    if request.frames is not None:
        raise JepaExportError(
            f"--frames is for other teachers: {request.teacher} plans from one frame",
            code="export.option_not_applicable",
        )
    search = preset("vjepa2_ac").search
    horizon = search.horizon if request.horizon is None else request.horizon
    if not 1 <= horizon <= config.frames:
        raise JepaExportError(
            f"--horizon must be between 1 and {config.frames}, the frames that the predictor reads, got "
            f"{horizon}",
            code="export.invalid_option",
        )
    if request.depth is not None:
        shallower = shallow(config, request.depth)
        assert isinstance(shallower, VJEPA2ACConfig)
        config = shallower
    variants = select_variants(request.targets, request.only, offered=TEACHER_VARIANTS)
    with torch.device("meta"):
        check_size(request.teacher, parameters(config.build().encoder), {target for target, _ in variants})
    cost = vjepa2_ac_bundle.bundle_cost(config, horizon, AC_NUM_SAMPLES)
    _announce(console, request, config, cost, cost_table(request.teacher, cost, 1, horizon), len(variants))
    check_disk_space(request.out, cost.weight_bytes // 4, variants)
    needed = vjepa2_ac_bundle.frames_needed(horizon)
    has_states = "state" in split_spec(request.calibration)[1]
    frames, states = read_calibration(
        request.calibration,
        config.encoder.frame_size,
        step_s=STEP_S,
        maximum=needed,
        minimum=needed,
        state=StateSpec(names=STATE_NAMES, units=STATE_UNITS) if has_states else None,
        model_id=request.teacher,
    )
    if states is None:
        console.print(
            "errors are measured with an arm that stands at pose 0, so that bounds and thresholds are "
            "placeholders: use a bag with poses "
            "(--calibration 'arm.mcap?state=/pose;/gripper_state:position.finger')",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    about = "each frame encoded as a still clip, planning from one frame and the pose of the arm"
    fitted = "with an arm that stands " if states is None else "with the recorded poses of the arm "
    model, identity = _model(request, member, config, about, fitted)
    assert isinstance(model, VJEPA2AC)
    settings = BundleSettings(
        actions=vjepa2_ac_bundle.POSE_DELTAS,
        history_size=1,
        horizon=horizon,
        num_samples=AC_NUM_SAMPLES,
        step_s=STEP_S,
        rate_hz=DEFAULT_RATE_HZ,
        variants=variants,
        command=request.command,
    )
    with progress_on(console) as bars:
        vjepa2_ac_bundle.write_vjepa2_ac_bundle(
            model,
            frames,
            request.out,
            settings,
            identity,
            states=states,
            seed=request.seed,
            progress=print_steps(console),
            begin=show_on(bars),
        )
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _announce(
    console: Console,
    request: TeacherRequest,
    config: VJEPA2Config | VJEPA2ACConfig,
    cost: BundleCost,
    table: Table,
    variants: int,
) -> None:
    """Print sizes, cost, memory and time of a build."""
    if is_family(request.teacher):
        console.print(f"sizes: {describe_config(config)}", highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"estimated memory: {cost.building_bytes / 1e9:.1f} GB for this build, "
        f"{cost.robot_bytes / 1e9:.1f} GB on the robot",
        highlight=False,
        soft_wrap=True,
    )
    seconds = building_seconds(config, cost, variants)
    console.print(
        f"estimated time: {seconds:.0f} s to encode and predict (from the speed of one transformer block), "
        "in addition to reading the weights and converting the graphs",
        highlight=False,
        soft_wrap=True,
    )


def _member(request: TeacherRequest) -> Member:
    """Return the teacher; the sizes of a family are those of its checkpoint."""
    if request.checkpoint is not None:
        return inspect(request.teacher, request.checkpoint, request.settings)
    if request.settings != Settings():
        raise JepaExportError(
            "--training-config, --heads, --predictor-heads, --resolution and --max-frames are for "
            "checkpoints of any size; omit them with --untrained",
            code="export.option_not_applicable",
        )
    return find_teacher(request.teacher)


def building_seconds(config: VJEPA2Config | VJEPA2ACConfig, cost: BundleCost, variants: int) -> float:
    """Estimate the time to encode and predict in a build, by its multiply-adds at the speed of one block."""
    sizes = config.encoder
    speed = multiply_adds_per_second(Block(sizes), torch.zeros(1, sizes.patches, sizes.width))
    return cost.building_multiply_adds(variants) / speed


def cost_table(name: str, cost: BundleCost, history_size: int, horizon: int) -> Table:
    """Return a table of the parameters, multiply-adds and size of both graphs."""
    table = Table("graph", "parameters", "multiply-adds", "MB fp32", title=name)
    called = "frame" if cost.still is None else "clip" if cost.steps == 1 else "step"
    graphs = {
        f"encoder, one {called}": cost.encoder,
        f"predictor, {horizon} steps after {history_size}": cost.predictor,
    }
    for graph, each in graphs.items():
        table.add_row(
            graph,
            f"{each.weights / 1e6:.2f} M",
            f"{each.multiply_adds / 1e9:.2f} G",
            f"{4 * each.weights / 1e6:.1f}",
        )
    return table


def _model(
    request: TeacherRequest,
    member: Member,
    config: VJEPA2Config | VJEPA2ACConfig,
    about: str,
    measured: str = "",
) -> tuple[VJEPA2 | VJEPA2AC, ModelIdentity]:
    """Return the network, and the entries of the manifest about it.

    Args:
        request: The request.
        member: The teacher.
        config: Its sizes.
        about: What the bundle computes, for the description.
        measured: How errors are measured, with a space at the end; empty: as usual.
    """
    name = request.teacher
    license = member.license if member.commercial else f"{member.license}: not for commercial use"
    sizes = f", {describe_config(config)}" if is_family(name) else ""
    summary = f"{name} ({member.family}{sizes}), {about}"
    if request.checkpoint is None:
        blocks = (config.encoder.depth, member.config.encoder.depth)
        part = "" if request.depth is None else ", {} of its {} blocks".format(*blocks)
        identity = ModelIdentity(
            model_id=name.lower(),
            version="0.0.0-untrained",
            trained=False,
            description=f"{summary}{part}; random weights: its outputs mean nothing",
            licence=license,
            data="none: random weights",
            teacher=f"{name} ({member.family}), random weights{part}",
        )
        return random_weights(config, request.seed), identity
    teacher = read(name, request.checkpoint, settings=request.settings)
    assert isinstance(teacher.model, VJEPA2 | VJEPA2AC)
    fitted = measured
    if isinstance(config, VJEPA2Config) and config.output_space == "teacher":
        fitted = "and projected by a linear map "
    identity = ModelIdentity(
        model_id=name.lower(),
        version="1.0.0",
        trained=True,
        description=f"{summary}; errors measured {fitted}on few frames: calibrate on your own data",
        licence=license,
        data=f"that of the teacher; errors measured {fitted}on frames of {Path(request.calibration).name}",
        teacher=teacher.provenance,
    )
    return teacher.model, identity


def random_weights(config: VJEPA2Config | VJEPA2ACConfig, seed: int) -> VJEPA2 | VJEPA2AC:
    """Return a network with random weights, also for parameters that training starts from zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build().eval().requires_grad_(False)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return model
