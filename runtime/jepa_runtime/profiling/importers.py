"""Import of results of trtexec and benchmark_app as profiles, to compare them with ours.

Values that such a file lacks (processor, precision, source) are absent in the profile; its notes explain the
tool's numbers. ``created`` is the modification time of the file.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.profile import (
    Kind,
    Profile,
    ReportedLatencies,
    Run,
    Subject,
    parse_profile,
    read_measurement,
)
from jepa_runtime.telemetry.measurements import MAX_VALUE, UNKNOWN, Duration, Environment, Number
from jepa_runtime.util.percentiles import PERCENTILES
from jepa_runtime.util.strict_json import describe_problems


class _Query(BaseModel):
    """One entry of trtexec's ``--exportTimes`` (exportJSONTrace in TensorRT's sampleReporting.cpp).

    TensorRT 7 uses In and Out for H2d and D2h of versions 8 to 11.
    """

    model_config = ConfigDict(allow_inf_nan=False, strict=True)

    start: Number = Field(validation_alias=AliasChoices("startH2dMs", "startInMs"))
    end: Number = Field(validation_alias=AliasChoices("endD2hMs", "endOutMs"))
    h2d: Duration = Field(validation_alias=AliasChoices("h2dMs", "inMs"))
    compute: Duration = Field(validation_alias="computeMs")
    d2h: Duration = Field(validation_alias=AliasChoices("d2hMs", "outMs"))
    latency: Duration = Field(validation_alias="latencyMs")


class _Report(BaseModel):
    """benchmark_app's ``benchmark_report.json``; values are strings (Python) or numbers (C++)."""

    cmd_options: dict[str, Any] | None = None
    configuration_setup: dict[str, Any] | None = None
    execution_results: dict[str, Any]


_QUERIES = TypeAdapter(Annotated[list[_Query], Field(min_length=1)])
_PERCENTILE_KEY = re.compile(r"latency \((\d{1,2}) percentile\) \(ms\)")


def read_results(path: Path) -> Profile:
    """Read a profile, a ``trtexec --exportTimes`` file or a benchmark_app JSON report.

    The content determines the format.

    Raises:
        ProfileError: The file cannot be read, or has none of these formats.
    """
    content = read_measurement(path)
    if content.lstrip().startswith(b"["):
        return _import_trtexec(path, content)
    if b'"execution_results"' in content and b'"profile_version"' not in content:
        return _import_benchmark_app(path, content)
    return parse_profile(path, content)


def _import_trtexec(path: Path, content: bytes) -> Profile:
    """Import the output of ``trtexec --exportTimes=FILE`` (TensorRT 7 to 11)."""
    try:
        queries = _QUERIES.validate_json(content)
    except ValidationError as error:
        raise ProfileError(
            f"{path}: not a file of trtexec --exportTimes: {describe_problems(error)}",
            code="profile.malformed",
        ) from error
    begin = min(query.start for query in queries)
    notes = [
        "closed loop: the next query is enqueued as soon as possible, not at a scheduled time",
        "latency is copy in + compute + copy out by the device's clock, without enqueueing and waiting",
        "trtexec before TensorRT 8.5 includes its warm-up",
    ]
    if not any(query.h2d or query.d2h for query in queries):
        notes.append("measured without copies (--noDataTransfers, the default of TensorRT 11)")
    return _profile(
        path,
        kind="trtexec",
        subject=Subject(engine="tensorrt", device=UNKNOWN),
        settings={},
        run=Run(
            rate_hz=None,
            deadline_ms=None,
            duration_s=max(0.0, (max(query.end for query in queries) - begin) / 1000),
            scheduled_s=[(query.start - begin) / 1000 for query in queries],
            latency_ms=[query.latency for query in queries],
            stages_ms={
                name: [getattr(query, name) for query in queries] for name in ("h2d", "compute", "d2h")
            },
        ),
        notes=notes,
    )


def _import_benchmark_app(path: Path, content: bytes) -> Profile:
    """Import the output of ``benchmark_app -report_type no_counters -json_stats`` (Python or C++).

    It contains no samples: percentiles are as reported, without intervals.
    """
    try:
        report = _Report.model_validate_json(content)
    except ValidationError as error:
        raise ProfileError(
            f"{path}: not a JSON report of benchmark_app: {describe_problems(error)}",
            code="profile.malformed",
        ) from error
    options, setup = report.cmd_options or {}, report.configuration_setup or {}
    if "error" in report.execution_results:
        raise ProfileError(
            f"{path}: benchmark_app failed: {report.execution_results['error']}", code="profile.tool_failed"
        )
    duration_ms = _number(report.execution_results, "total execution time (ms)", "execution_time")
    summary, notes = _summary(report.execution_results)
    if summary is None or duration_ms is None or duration_ms < 0:
        raise ProfileError(
            f"{path}: a JSON report of benchmark_app without iterations or execution time",
            code="profile.malformed",
        )
    threads = _number(options, "-nthreads", "--number_threads", "nthreads")
    return _profile(
        path,
        kind="benchmark_app",
        subject=Subject(
            model_id=_text(options, "-m", "--path_to_model", "m") or _text(setup, "topology"),
            engine="openvino",
            device=_text(setup, "target device", "target_device") or UNKNOWN,
            threads=None if threads is None else int(threads),
        ),
        settings=_settings(setup),
        run=Run(
            rate_hz=None,
            deadline_ms=None,
            duration_s=duration_ms / 1000,
            scheduled_s=[],
            latency_ms=[],
            stages_ms={},
            reported=summary,
        ),
        notes=[
            "closed loop; latency is that of one graph's inference request",
            "a summary without samples and intervals; rounded to 0.01 ms by the Python benchmark_app",
            *notes,
        ],
    )


def _summary(results: dict[str, Any]) -> tuple[ReportedLatencies | None, list[str]]:
    """Return the summary (None without a count), and notes with the results that do not fit into it."""
    count = _number(results, "total number of iterations", "iterations_num")
    percent, value = _percentile(results)
    name = next((name for name, permille in PERCENTILES.items() if permille == 10 * percent), None)
    notes = [
        f"{key}: {results[key]}"
        for key in (
            "compile model time (ms)",
            "compile_model_time",
            "first inference time (ms)",
            "first_inference_time",
        )
        if key in results
    ]
    if value is not None and name is None:
        notes.append(f"{percent:g} % of the inferences took at most {value:g} ms")
    if count is None or count < 1:
        return None, notes
    summary = ReportedLatencies(
        n=int(count),
        quantiles_ms={} if value is None or name is None else {name: value},
        mean_ms=_number(results, "avg latency", "latency_avg"),
        min_ms=_number(results, "min latency", "latency_min"),
        max_ms=_number(results, "max latency", "latency_max"),
    )
    return summary, notes


def _profile(
    path: Path, *, kind: Kind, subject: Subject, settings: dict[str, str], run: Run, notes: list[str]
) -> Profile:
    return Profile(
        created=datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds"),
        tool=kind,
        kind=kind,
        subject=subject,
        environment=Environment(cpu=UNKNOWN, cores=0, architecture=UNKNOWN, versions={}, settings=settings),
        run=run,
        notes=notes,
    )


def _percentile(results: dict[str, Any]) -> tuple[float, float | None]:
    """Return the reported percentile in percent, and its value in ms."""
    for key in results:
        if match := _PERCENTILE_KEY.fullmatch(key):
            return float(match[1]), _number(results, key)
    boundary = _number(results, "percentile_boundary")
    return 50.0 if boundary is None else boundary, _number(results, "latency (ms)", "latency_median")


def _settings(setup: dict[str, Any]) -> dict[str, str]:
    named = {
        "API": ("API", "api"),
        "inference requests": ("number of parallel infer requests", "nireq"),
        "batch size": ("batch size", "batch_size"),
    }
    found = {name: _text(setup, *keys) for name, keys in named.items()}
    streams = {key: str(value) for key, value in setup.items() if "streams" in key}
    return {name: value for name, value in found.items() if value is not None} | streams


def _text(values: dict[str, Any], *names: str) -> str | None:
    return next((str(values[name]) for name in names if name in values), None)


def _number(values: dict[str, Any], *names: str) -> float | None:
    text = _text(values, *names)
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if abs(number) <= MAX_VALUE else None
