"""jepa-export build: a bundle of a student."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jepa_export.bundling.manifest_fields import Actions, Settings
from jepa_export.bundling.staging import check_target
from jepa_export.bundling.student_bundle import write_untrained
from jepa_export.bundling.variants import DEFAULT_TARGETS, Kind, kinds_for
from jepa_export.data.two_rooms_recordings import STEP_S
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import of_network, parameters
from jepa_export.students.family import Student, create, stir
from jepa_runtime.imaging.conversion import fit
from jepa_runtime.sources.factory import open_source
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS

CALIBRATION_FRAMES = 64
FEWEST_FRAMES = 16
DEFAULT_RATE_HZ = 30.0
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
TWO_ROOMS_ACTIONS = Actions(
    names=("linear.x", "linear.y"),
    units=("m/s", "m/s"),
    low=(-MAX_SPEED_MPS, -MAX_SPEED_MPS),
    high=(MAX_SPEED_MPS, MAX_SPEED_MPS),
    max_norm=MAX_SPEED_MPS,
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for; ``actions`` None: those of Two Rooms."""

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
        """The command that makes the same bundle."""
        actions = "" if self.actions is None else f" --actions {self.actions}"
        calibration = shlex.quote(self.calibration)
        return (
            f"jepa-export build --student {self.student} --untrained --size {self.px}{actions} "
            f"--horizon {self.horizon} --num-samples {self.num_samples} --history {self.history_size} "
            f"--seed {self.seed} --calibration {calibration}{forms(self.targets, self.only)}"
        )


def build(request: Request) -> int:
    """Write a bundle of an untrained student, saying first what it will cost.

    Raises:
        JepaExportError: the request cannot be met; the message says why.
        SourceError: the calibration source cannot be read.
    """
    console = Console()
    check_target(request.out)
    _check(request)
    kinds = kinds_for(request.targets, request.only)
    actions = TWO_ROOMS_ACTIONS if request.actions is None else _plain_actions(request.actions)
    student = create(request.student, px=request.px, action_scale=actions.scale, seed=request.seed)
    stir(student.predictor, request.seed)
    console.print(cost_table(student, request))
    # The predictor lies there twice: for one step of one candidate too.
    check_space(request.out, parameters(student.encoder, student.predictor, student.predictor), kinds)
    frames = calibration_frames(request.calibration, (request.px, request.px))
    settings = Settings(
        actions=actions,
        history_size=request.history_size,
        horizon=request.horizon,
        num_samples=request.num_samples,
        step_s=STEP_S,
        rate_hz=DEFAULT_RATE_HZ,
        variants=kinds,
        command=request.command,
    )
    write_untrained(student, frames, request.out, settings, seed=request.seed, progress=steps_on(console))
    console.print(f"bundle: {request.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def forms(targets: Sequence[str], only: str | None) -> str:
    """The options that ask for these forms."""
    if only is not None:
        return f" --only {only}"
    return "" if tuple(targets) == DEFAULT_TARGETS else "".join(f" --target {target}" for target in targets)


def steps_on(console: Console) -> Callable[[str], None]:
    """Prints what comes next, counted and timed."""
    began, step = time.monotonic(), count(1)

    def progress(what: str) -> None:
        console.print(f"[{next(step)}] {time.monotonic() - began:5.1f} s  {what}", markup=False)

    return progress


def check_space(out: Path, weights: int, kinds: Sequence[Kind]) -> None:
    """Refuse to begin what does not fit on the disk: ``weights`` numbers in each of ``kinds``, and twice in
    fp32 on the way.

    Raises:
        JepaExportError: there is less room.
    """
    needed = weights * (2 * _BYTES["fp32"] + sum(_BYTES[precision] for _, precision in kinds))
    there = next(parent for parent in out.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise JepaExportError(
            f"{out}: building takes {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free: make room, "
            "or choose another --out"
        )


def calibration_frames(
    source: str,
    size: tuple[int, int],
    *,
    step_s: float = STEP_S,
    most: int = CALIBRATION_FRAMES,
    fewest: int = FEWEST_FRAMES,
) -> NDArray[np.uint8]:
    """Frames of a source, ``step_s`` apart, scaled to ``size`` (height, width): uint8 [n, height, width, 3].

    Raises:
        SourceError: there is no such source, or it cannot be read.
        JepaExportError: it holds fewer than ``fewest`` such frames.
    """
    opened = open_source(source)
    try:
        stride = max(1, round((opened.rate_hz or DEFAULT_RATE_HZ) * step_s))
        found = []
        for frame in islice(opened.frames(), 0, most * stride, stride):
            found.append(np.empty((*size, 3), np.uint8))
            fit(frame.image, found[-1])
    finally:
        opened.close()
    if len(found) < fewest:
        raise JepaExportError(
            f"{source}: {len(found)} frames a step apart, calibration takes at least {fewest}"
        )
    return np.stack(found)


def cost_table(student: Student, request: Request) -> Table:
    """Parameters, multiply-adds and size of both graphs."""
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
            f"{of_network(module, *example) / 1e9:.2f} G",
            f"{4 * total / 1e6:.1f}",
            f"{quantized / 1e6:.1f}",
        )
    return table


def _check(request: Request) -> None:
    limits = {
        "--size": (request.px, 16, 4096),
        "--horizon": (request.horizon, 1, 32),
        "--num-samples": (request.num_samples, 1, 4096),
        "--history": (request.history_size, 1, 4),
        "--actions": (1 if request.actions is None else request.actions, 1, 64),
    }
    for option, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise JepaExportError(f"{option} must be between {low} and {high}, got {value}")


def _plain_actions(size: int) -> Actions:
    return Actions(
        names=tuple(f"action_{index}" for index in range(size)),
        units=("1",) * size,
        low=(-1.0,) * size,
        high=(1.0,) * size,
        max_norm=None,
    )
