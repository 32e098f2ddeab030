"""What was measured, as data: the JSON that ``jepa-runtime profile`` writes and ``compare`` reads.

Samples are kept, not only their summaries: whoever reads a profile can compute other statistics, and
comparisons need the samples. What could not be measured is there too, with the reason.

Times are milliseconds unless a name says otherwise; moments are seconds since the start of their run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jepa_runtime.errors import ProfileError
from jepa_runtime.telemetry.measurements import (
    MAX_VALUE,
    Duration,
    Energy,
    Environment,
    Milliseconds,
    Reading,
)
from jepa_runtime.util.output_files import write_text
from jepa_runtime.util.strict_json import describe

_MAX_BYTES = 1 << 28

# How a frame spends its time, in order. ``receive``: from the scheduled moment until the frame was at hand;
# ``wait``: in the mailbox; only where messages are sent: ``transport`` of the image to the model's process,
# ``message``, ``publish``, and ``delivery`` of the result to the process that measures.
STAGES = (
    "receive", "transport", "decode", "wait", "preprocess", "copy", "encode", "predict", "energy", "surprise",
    "message", "publish", "delivery",
)  # fmt: skip

# Stages that not every frame goes through, nor every run of trtexec: zero in those that one did not.
PASSED_BY = ("predict", "energy", "surprise", "h2d", "d2h")


def stage_order(names: Iterable[str]) -> list[str]:
    """``names`` in the order of :data:`STAGES`; others after them."""
    return sorted(names, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))


def why_no_copy(engine: str, device: str) -> str:
    """Why the stage ``copy`` has no time of its own: what the engine does instead."""
    if device == "CPU":
        return "preprocessing writes into the engine's own input buffer"
    if engine.startswith("tensorrt"):
        return "uploads and downloads are part of encode and predict: one CUDA graph each"
    return f"{engine} brings inputs to the {device} and outputs back inside encode and predict"


Kind = Literal["pipeline", "ros", "trtexec", "benchmark_app"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subject(_Model):
    """What was measured: the model as served, and what it was fed. None: does not apply, or is not known."""

    model_id: str | None = None
    model_version: str | None = None
    sha256: str | None = None
    engine: str
    engine_version: str | None = None
    device: str
    precision: str | None = None
    threads: int | None = None
    futures: int | None = None
    horizon: int | None = None
    source: str | None = None
    frame_size: tuple[int, int] | None = None  # width, height of the frames that came


class ReportedLatencies(_Model):
    """Latencies (ms) as summed up by a tool that keeps no samples. What is missing it did not tell."""

    n: Annotated[int, Field(gt=0)]
    quantiles_ms: dict[Literal["p50", "p90", "p95", "p99", "p999"], float]
    mean_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None


class Run(_Model):
    """One pass over a source at a fixed rate (open loop) or as fast as it goes (``rate_hz`` None).

    The lists of one length, one entry for each frame that was processed, in order:

    Attributes:
        rate_hz: frames were due at this rate whatever became of those before.
        deadline_ms: results later than this count as misses.
        duration_s: from the first scheduled moment to the last result.
        scheduled_s: when the frame was due.
        latency_ms: from then to its result.
        stages_ms: what it did in that time, by stage (see :data:`STAGES`, :data:`PASSED_BY`). What is
            missing of ``latency_ms`` is the residual.
        dropped_s: when frames were due that a newer one replaced.
        failed_s: when frames were due whose processing failed.
        absent: stages that were not measured, and why.
        device_ms: of some stages, what the device's own clock says; zero where it told nothing.
        told: instead of samples, in an imported profile.
    """

    rate_hz: Annotated[float, Field(ge=1 / MAX_VALUE, le=MAX_VALUE)] | None
    deadline_ms: Annotated[float, Field(gt=0)] | None
    duration_s: Duration
    scheduled_s: Milliseconds
    latency_ms: Milliseconds
    stages_ms: dict[str, Milliseconds]
    dropped_s: Milliseconds = []
    failed_s: Milliseconds = []
    absent: dict[str, str] = {}
    device_ms: dict[str, Milliseconds] = {}
    told: ReportedLatencies | None = None

    @model_validator(mode="after")
    def _agree(self) -> Run:
        count = len(self.scheduled_s)
        timed = *self.stages_ms.items(), *self.device_ms.items()
        for name, values in (("latency_ms", self.latency_ms), *timed):
            if len(values) != count:
                raise ValueError(f"{name} must have one entry per frame ({count}), got {len(values)}")
        if self.told is not None and count:
            raise ValueError(f"told must be None where there are samples ({count})")
        return self


class SweepPoint(_Model):
    """What became of a rate: a run of some seconds, summed up."""

    rate_hz: float
    frames: int
    dropped: int
    misses: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Sweep(_Model):
    """Rising rates until frames are dropped or deadlines missed. ``knee_hz``: the highest that was kept up
    with (at most ``max_late`` of the frames dropped or later than one period); None: none was."""

    points: list[SweepPoint]
    max_late: float
    knee_hz: float | None


class ColdStart(_Model):
    """From nothing to steady, each phase in fresh processes: one entry per repetition.

    ``phases_ms``: import, open (read and verify), compile, first_encode, first_predict, then steady_encode
    and steady_predict (what they take once warm). ``cache``: of compiled models: none, miss or hit.
    """

    cache: Literal["none", "miss", "hit"]
    phases_ms: dict[str, Milliseconds]
    total_ms: Milliseconds


class IdleGap(_Model):
    """Latency of the first frame after the pipeline stood idle for ``gap_s``: from submitting it to its
    result, surprise included."""

    gap_s: float
    latency_ms: Milliseconds


class Parity(_Model):
    """How closely one graph reproduces the bundle's golden outputs on this machine."""

    graph: str
    mean_cosine: float
    worst_cosine: float
    max_abs: float
    ok: bool


class Layer(_Model):
    """One operation of a graph, from a pass of its own: counting slows the graph down."""

    graph: str
    name: str
    kind: str
    implementation: str
    mean_ms: float


class Profile(_Model):
    """Everything that was measured in one call. ``notes``: what a reader must know to judge it."""

    model_config = ConfigDict(title="jepa-edge latency profile, version 1", frozen=True, extra="forbid")

    profile_version: Literal[1] = 1
    created: str  # ISO 8601, UTC
    tool: str
    kind: Kind
    subject: Subject
    environment: Environment
    run: Run
    closed_loop: Run | None = None
    sweep: Sweep | None = None
    cold_starts: list[ColdStart] = []
    idle_gaps: list[IdleGap] = []
    readings: list[Reading] = []
    energy: Energy | None = None
    parity: list[Parity] = []
    layers: list[Layer] = []
    notes: list[str] = []


def write_profile(profile: Profile, target: str | Path) -> None:
    """Write a profile as JSON to a file, or to standard output if ``target`` is ``-``; folders are made.

    Raises:
        JepaRuntimeError: it cannot be written there.
    """
    write_text(target, profile.model_dump_json())


def read_profile(path: Path) -> Profile:
    """Read a profile back.

    Raises:
        ProfileError: it cannot be read, is of another version, or is not a profile.
    """
    return parse_profile(path, read_measurement(path))


def parse_profile(path: Path, content: bytes) -> Profile:
    """The profile that a file holds.

    Raises:
        ProfileError: it is of another version, or is not a profile.
    """
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        raise ProfileError(f"{path}: not a jepa-edge profile of version 1: {describe(error)}") from error


def read_measurement(path: Path) -> bytes:
    """What a file holds, of whatever tool.

    Raises:
        ProfileError: it cannot be read, or is larger than any measurement.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ProfileError(f"{path}: larger than {_MAX_BYTES >> 20} MiB: no results of a measurement")
        return path.read_bytes()
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
