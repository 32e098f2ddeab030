"""The work of jepa-export build --student: the bundle of a student with random weights."""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jepa_export.bundling.manifest_fields import ActionSpace, BundleSettings
from jepa_export.bundling.staging import check_output
from jepa_export.bundling.student_bundle import write_untrained_bundle
from jepa_export.bundling.variants import DEFAULT_TARGETS, VariantKey, select_variants
from jepa_export.data.two_rooms_recordings import STEP_S
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import network_multiply_adds, parameters
from jepa_export.students.family import Student, create, randomize
from jepa_runtime.bundle import StateSpec
from jepa_runtime.imaging import resize_into
from jepa_runtime.sources import Source, check_state_names, open_source
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS

CALIBRATION_FRAMES = 64
MIN_CALIBRATION_FRAMES = 16
DEFAULT_RATE_HZ = 30.0
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
TWO_ROOMS_ACTIONS = ActionSpace(
    names=("linear.x", "linear.y"),
    units=("m/s", "m/s"),
    low=(-MAX_SPEED_MPS, -MAX_SPEED_MPS),
    high=(MAX_SPEED_MPS, MAX_SPEED_MPS),
    max_norm=MAX_SPEED_MPS,
)


@dataclass(frozen=True, kw_only=True)
class StudentRequest:
    """The arguments of the command; ``actions`` None: those of Two Rooms."""

    student: str
    out: Path
    px: int
    actions: int | None
    horizon: int
    num_samples: int
    history_size: int
    seed: int
    calibration: str
    targets: tuple[str, ...]
    only: str | None

    @property
    def command(self) -> str:
        """The command that builds the same bundle."""
        actions = "" if self.actions is None else f" --actions {self.actions}"
        calibration = shlex.quote(self.calibration)
        return (
            f"jepa-export build --student {self.student} --untrained --size {self.px}{actions} "
            f"--horizon {self.horizon} --num-samples {self.num_samples} --history {self.history_size} "
            f"--seed {self.seed} --calibration {calibration}{variant_arguments(self.targets, self.only)}"
        )


def build_student(request: StudentRequest) -> int:
    """Print the cost of a student, and write its bundle with random weights.

    Raises:
        JepaExportError: The bundle cannot be built.
        SourceError: The calibration source cannot be read.
    """
    console = Console()
    check_output(request.out)
    _check(request)
    variants = select_variants(request.targets, request.only)
    actions = TWO_ROOMS_ACTIONS if request.actions is None else _plain_actions(request.actions)
    student = create(request.student, px=request.px, action_scale=actions.scale, seed=request.seed)
    randomize(student.predictor, request.seed)
    console.print(cost_table(student, request))
    # The predictor is stored twice: also as the graph for one step of one candidate.
    weights = parameters(student.encoder, student.predictor, student.predictor)
    check_disk_space(request.out, weights, variants)
    frames, _ = read_calibration(request.calibration, (request.px, request.px))
    settings = BundleSettings(
        actions=actions,
        history_size=request.history_size,
        horizon=request.horizon,
        num_samples=request.num_samples,
        step_s=STEP_S,
        rate_hz=DEFAULT_RATE_HZ,
        variants=variants,
        command=request.command,
    )
    write_untrained_bundle(
        student, frames, request.out, settings, seed=request.seed, progress=print_steps(console)
    )
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def variant_arguments(targets: Sequence[str], only: str | None) -> str:
    """Return the options that select these variants."""
    if only is not None:
        return f" --only {only}"
    return "" if tuple(targets) == DEFAULT_TARGETS else "".join(f" --target {target}" for target in targets)


def print_steps(console: Console) -> Callable[[str], None]:
    """Return a function that prints each step with its number and the elapsed time."""
    start, step = time.monotonic(), count(1)

    def progress(what: str) -> None:
        console.print(f"[{next(step)}] {time.monotonic() - start:5.1f} s  {what}", markup=False)

    return progress


def check_disk_space(out: Path, weights: int, variants: Sequence[VariantKey]) -> None:
    """Check that a bundle fits on the disk: its variants, and two temporary copies in fp32.

    Args:
        out: Folder of the bundle.
        weights: Number of parameters.
        variants: Variants of the bundle.

    Raises:
        JepaExportError: There is not enough free space.
    """
    needed = weights * (2 * _BYTES["fp32"] + sum(_BYTES[precision] for _, precision in variants))
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise JepaExportError(
            f"{out}: building needs {needed / 1e9:.2f} GB of disk space, {free / 1e9:.2f} GB are free: free "
            "some space, or choose another --output",
            code="export.disk_full",
        )


def read_calibration(
    source: str,
    size: tuple[int, int],
    *,
    step_s: float = STEP_S,
    maximum: int = CALIBRATION_FRAMES,
    minimum: int = MIN_CALIBRATION_FRAMES,
    frames_per_step: int = 1,
    state: StateSpec | None = None,
    model_id: str = "",
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Read frames of a source, and the states of the robot at them.

    Args:
        source: As for `jepa-runtime run`.
        size: Height and width to which frames are scaled.
        step_s: Duration of a step.
        maximum: Number of steps to read.
        minimum: Number of steps that the source must have.
        frames_per_step: Number of frames in a step; a slower source repeats frames.
        state: The state that the model reads; None: none is read.
        model_id: The model, for messages.

    Returns:
        Frames, uint8 [n * frames_per_step, height, width, 3] for n steps, and their states [n *
        frames_per_step, S]; None without ``state``.

    Raises:
        SourceError: The source does not exist or cannot be read, or does not have the states.
        JepaExportError: The source has fewer than ``minimum`` such steps, or a frame has no state within an
            eighth of a step.
    """
    opened = open_source(source)
    states: list[NDArray[np.float32]] = []
    try:
        if state is not None:
            check_state_names(opened, state, model_id)
        stride = max(1, round((opened.rate_hz or DEFAULT_RATE_HZ) * step_s))
        rows = [math.ceil(index * stride / frames_per_step) for index in range(maximum * frames_per_step)]
        times, found = Counter(rows), []
        for row, frame in enumerate(islice(opened.frames(), rows[-1] + 1)):
            if row in times:
                scaled = np.empty((*size, 3), np.uint8)
                resize_into(frame.image, scaled)
                found += [scaled] * times[row]
                if state is not None:
                    states += [_state_at(opened, frame.stamp_ns, step_s / 8)] * times[row]
    finally:
        opened.close()
    if (steps := len(found) // frames_per_step) < minimum:
        raise JepaExportError(
            f"{source}: has {steps} frames one step apart, calibration needs at least {minimum}",
            code="export.too_few_frames",
        )
    count = steps * frames_per_step
    return np.stack(found[:count]), None if state is None else np.stack(states[:count])


def _state_at(source: Source, stamp_ns: int, tolerance_s: float) -> NDArray[np.float32]:
    """Return the state of the robot at the last frame of ``source``.

    Raises:
        JepaExportError: None was measured within ``tolerance_s``.
    """
    state = source.state
    if state is None or abs(state.stamp_ns - stamp_ns) > tolerance_s * 1e9:
        gap = "" if state is None else f": the nearest is {abs(state.stamp_ns - stamp_ns) / 1e9:.3f} s away"
        raise JepaExportError(
            f"{source.name}: no state of the robot within an eighth of the model's step ({tolerance_s:g} s) "
            f"of the frame at {stamp_ns / 1e9:.3f} s{gap}: record states at least as often, with the clock "
            "of the images, and cut the recording to where both exist",
            code="export.state_unmatched",
        )
    return state.values


def cost_table(student: Student, request: StudentRequest) -> Table:
    """Return a table of the parameters, multiply-adds and size of both graphs."""
    table = Table("graph", "parameters", "multiply-adds", "MB fp32", "MB INT8", title=student.name)
    shape = (student.encoder.config.tokens, student.encoder.config.dim)
    width = len(student.predictor.config.action_scale)
    size, actions = request.history_size, torch.zeros(request.num_samples, request.horizon, width)
    inputs = {
        "encoder": (student.encoder, (torch.zeros(1, request.px, request.px, 3, dtype=torch.uint8),)),
        f"predictor, {request.num_samples} futures of {request.horizon} steps": (
            student.predictor,
            (torch.zeros(1, size, *shape), actions, torch.zeros(1, size - 1, width) if size > 1 else None),
        ),
    }
    for name, (module, example) in inputs.items():
        matrices = sum(each.numel() for each in module.parameters() if each.ndim == 2)
        total = parameters(module)
        quantized = matrices + 4 * (total - matrices)
        table.add_row(
            name,
            f"{total / 1e6:.2f} M",
            f"{network_multiply_adds(module, *example) / 1e9:.2f} G",
            f"{4 * total / 1e6:.1f}",
            f"{quantized / 1e6:.1f}",
        )
    return table


def _check(request: StudentRequest) -> None:
    limits = {
        "--size": (request.px, 16, 4096),
        "--horizon": (request.horizon, 1, 32),
        "--num-samples": (request.num_samples, 1, 4096),
        "--history": (request.history_size, 1, 4),
        "--actions": (1 if request.actions is None else request.actions, 1, 64),
    }
    for option, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise JepaExportError(
                f"{option} must be between {low} and {high}, got {value}", code="export.invalid_option"
            )


def _plain_actions(size: int) -> ActionSpace:
    return ActionSpace(
        names=tuple(f"action_{index}" for index in range(size)),
        units=("1",) * size,
        low=(-1.0,) * size,
        high=(1.0,) * size,
        max_norm=None,
    )
