"""The data of a profile: the JSON that ``jepa-runtime profile`` writes and ``compare`` reads.

A profile contains all samples, not only their summaries: comparisons need them, and readers can compute other
statistics. It also lists what could not be measured, with the reason.

Times are in ms unless a name says otherwise; moments are in s since the start of their run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jepa_runtime.backends.registry import find_engine
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
from jepa_runtime.util.strict_json import describe_problems

_MAX_BYTES = 1 << 28

# The stages of a frame, in order. ``receive``: from the scheduled time until the frame arrived; ``wait``: in
# the mailbox; with messages also ``transport`` of the image to the process of the model, ``message``,
# ``publish``, and ``delivery`` of the result to the measuring process.
STAGES = (
    "receive", "transport", "decode", "wait", "preprocess", "copy", "encode", "predict", "energy",
    "relative_pose", "surprise", "message", "publish", "delivery",
)  # fmt: skip

# Stages that some frames, or runs of trtexec, skip: zero in those.
OPTIONAL_STAGES = ("predict", "energy", "relative_pose", "surprise", "h2d", "d2h")


def stage_order(names: Iterable[str]) -> list[str]:
    """Return ``names`` in the order of :data:`STAGES`, others after them."""
    return sorted(names, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))


def copy_absent_reason(engine: str, device: str) -> str:
    """Return why the stage ``copy`` is not measured separately with this engine."""
    if device == "CPU":
        return "preprocessing writes into the engine's own input buffer"
    declared = find_engine(engine)
    if declared is not None and declared.transfers:
        return declared.transfers
    return f"{engine} transfers inputs and outputs of the {device} during encode and predict"


Kind = Literal["pipeline", "ros", "trtexec", "benchmark_app"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subject(_Model):
    """The measured model and its input. None: not applicable, or unknown."""

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
    frame_size: tuple[int, int] | None = None  # width, height of the input frames


class ReportedLatencies(_Model):
    """Latencies [ms] as summarized by a tool without samples. None: not reported."""

    n: Annotated[int, Field(gt=0)]
    quantiles_ms: dict[Literal["p50", "p90", "p95", "p99", "p999"], float]
    mean_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None


class Run(_Model):
    """One pass over a source at a fixed rate (open loop) or at the highest rate (closed loop).

    ``scheduled_s``, ``latency_ms`` and the lists of stages have one entry for each processed frame, in order.

    Attributes:
        rate_hz: Rate of the schedule, which is independent of the results; None in closed loop.
        deadline_ms: Later results count as deadline misses.
        duration_s: Time from the first scheduled time to the last result.
        scheduled_s: Scheduled time of each frame.
        latency_ms: Time from the scheduled time to the result.
        stages_ms: Duration of each stage (see :data:`STAGES`, :data:`OPTIONAL_STAGES`). The rest of
            ``latency_ms`` is the residual.
        dropped_s: Scheduled times of frames that a newer one replaced.
        failed_s: Scheduled times of frames whose processing failed.
        absent: Stages that were not measured, and why.
        device_ms: Duration of some stages by the device's clock; zero where it reported none.
        reported: Summary instead of samples, in an imported profile.
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
    reported: ReportedLatencies | None = None

    @model_validator(mode="after")
    def _agree(self) -> Run:
        count = len(self.scheduled_s)
        timed = *self.stages_ms.items(), *self.device_ms.items()
        for name, values in (("latency_ms", self.latency_ms), *timed):
            if len(values) != count:
                raise ValueError(f"{name} must have one entry per frame ({count}), got {len(values)}")
        if self.reported is not None and count:
            raise ValueError(f"reported: must be null if there are samples ({count})")
        return self


class SweepPoint(_Model):
    """The summary of a run of some seconds at one rate."""

    rate_hz: float
    frames: int
    dropped: int
    misses: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Sweep(_Model):
    """Rising rates until frames are dropped or deadlines missed.

    Attributes:
        points: The rates.
        max_late: Largest proportion of frames that are dropped or later than one period at a sustained rate.
        knee_hz: The highest sustained rate, or None.
    """

    points: list[SweepPoint]
    max_late: float
    knee_hz: float | None


class ColdStart(_Model):
    """Starts of new processes, one entry per repetition.

    Attributes:
        cache: State of the cache of compiled models.
        phases_ms: import, open (read and verify), compile, first_encode, first_predict, and for comparison
            the steady state: steady_encode, steady_predict.
        total_ms: Time from the start of the process to the first futures.
    """

    cache: Literal["none", "miss", "hit"]
    phases_ms: dict[str, Milliseconds]
    total_ms: Milliseconds


class IdleGap(_Model):
    """Latency of the first frame after the pipeline was idle for ``gap_s``, from submission to result."""

    gap_s: float
    latency_ms: Milliseconds


class Parity(_Model):
    """Deviation of one graph from the bundle's golden outputs on this machine."""

    graph: str
    mean_cosine: float
    worst_cosine: float
    max_abs: float
    ok: bool


class Layer(_Model):
    """One operation of a graph, measured in a separate pass, because profiling slows the graph down."""

    graph: str
    name: str
    kind: str
    implementation: str
    mean_ms: float


class Profile(_Model):
    """All measurements of one call. ``notes`` are for readers."""

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
    """Write a profile as JSON to a file, or to standard output if ``target`` is ``-``.

    Missing folders are created.

    Raises:
        JepaRuntimeError: The file cannot be written.
    """
    write_text(target, profile.model_dump_json())


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ProfileError: The file cannot be read, has another version, or is not a profile.
    """
    return parse_profile(path, read_measurement(path))


def parse_profile(path: Path, content: bytes) -> Profile:
    """Parse the content of a file as a profile.

    Raises:
        ProfileError: The content has another version, or is not a profile.
    """
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        raise ProfileError(
            f"{path}: not a jepa-edge profile of version 1: {describe_problems(error)}",
            code="profile.malformed",
        ) from error


def read_measurement(path: Path) -> bytes:
    """Read the content of a file with measurements of any tool.

    Raises:
        ProfileError: The file cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ProfileError(
                f"{path}: larger than {_MAX_BYTES >> 20} MiB: not a profile", code="profile.too_large"
            )
        return path.read_bytes()
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}", code="profile.unreadable") from error
