"""The second gate: a separate process opens a candidate, compares it with its golden outputs, and times it.

A model is data, but data can crash the engine that reads it, hang it, or exhaust memory. Whatever happens to
the child (see :mod:`~jepa_runtime.ota.gate.probe_process` for its restrictions), the caller gets a report or
the reason why there is none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.errors import MachineBusyError, ReleaseRejectedError, UpdateError
from jepa_runtime.ota.gate.latency_budget import CONFIDENCE, Comparison, Cost, is_within
from jepa_runtime.ota.release import Budgets
from jepa_runtime.util.compat import python_module

CHILD = "jepa_runtime.ota.gate.probe_process"
MAX_ANSWER_BYTES = 1 << 20
_TAIL_BYTES = 4096
_POLL_S = 0.2
_MAX_REASON = 500
_NO_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "Failed to allocate", "can't alloc")


@dataclass(frozen=True, kw_only=True)
class ProbeLimits:
    """Limits of a probe; beyond them the child is killed.

    Attributes:
        memory_mb: Writable memory (RLIMIT_DATA: heap, buffers, thread stacks); twice that where it is timed
            next to the active model. Address space is not limited: engines reserve far more than they use.
        cpu_s: Processor time.
        wall_s: Time from start to report.
        threads: Threads for one inference, as in service.
        build_s: Time to build its engines before the probe, if it needs any.

    Raises:
        ValueError: A limit is not above 0.
    """

    memory_mb: int = 4096
    cpu_s: int = 300
    wall_s: float = 600.0
    threads: int = 1
    build_s: float = 3600.0

    def __post_init__(self) -> None:
        for name, most in asdict(self).items():
            if most <= 0:
                raise ValueError(f"{name} must be above 0, got {most:g}")


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """The measurements of a probe.

    Attributes:
        latency_p50_ms: Median wall-clock latency of one golden frame, encode and predict, in the quietest
        round. latency_p99_ms: 99th percentile of the same.
        cost: Cost of a frame, which is compared with the budget.
        by_clock: Whether the cost is wall-clock time; otherwise it is processor time.
        others: Proportion of the processors that other processes used meanwhile; None: unknown.
        peak_memory_mb: Peak resident memory of the process.
        network_isolated: Whether the process had no network; it has one where the kernel has neither
            namespaces nor seccomp.
        disk_isolated: Whether the process could not write to the disk; it can with the engine of a GPU or an
            NPU, and without seccomp or Landlock of Linux 6.2.
        comparison: The comparison with the active model; None: not needed, or not possible.
    """

    latency_p50_ms: float
    latency_p99_ms: float
    cost: Cost
    by_clock: bool
    others: float | None
    peak_memory_mb: float
    network_isolated: bool
    disk_isolated: bool
    comparison: Comparison | None = None


class Answer(BaseModel):
    """The output of the child: a report, a comparison, or the reason why there is none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    report: ProbeReport | None = None
    comparison: Comparison | None = None
    reason: str = ""
    code: str = "gate.probe_failed"


def probe(
    folder: Path,
    *,
    budgets: Budgets,
    active: Path | None = None,
    engine: str = DEFAULT_ENGINE,
    precision: str | None = None,
    limits: ProbeLimits | None = None,
    require_sandbox: bool = True,
    heartbeat: Callable[[], None] = lambda: None,
) -> ProbeReport:
    """Probe a bundle in a separate process.

    Args:
        folder: The bundle.
        budgets: The limits of its release; ``max_error_ratio`` is not checked by this gate.
        active: The active bundle, for a comparison if load may be why the candidate is over its latency
            budget (:mod:`~jepa_runtime.ota.gate.latency_budget`); None: there is none, and the probe has
            the priority of this process instead of the lowest.
        engine: The engine that will serve it.
        precision: The precision that will serve it; None: the first that the engine can run.
        limits: The limits of the process.
        require_sandbox: Reject the bundle without opening it if its process cannot be isolated from the
            network or, on a CPU, from the disk.
        heartbeat: Called during the probe.

    Raises:
        ReleaseRejectedError: The bundle is invalid, crashed, hung, exceeded a limit or a budget, or computes
            wrong values; the message says which.
        MachineBusyError: It is over its latency budget, and load may be the reason.
        UpdateError: The process could not be started.
    """
    limits = limits or ProbeLimits()
    request = {
        "engine": engine, "precision": precision, "active": None, "yields": active is not None,
        "require_sandbox": require_sandbox,
    }  # fmt: skip
    report = _run_child(folder, request, limits, heartbeat).report
    if report is None:
        raise ReleaseRejectedError(f"{folder}: the probe returned no report", code="gate.probe_failed")
    if budgets.peak_memory_mb is not None and report.peak_memory_mb > budgets.peak_memory_mb:
        raise ReleaseRejectedError(
            f"{folder}: peak memory is {report.peak_memory_mb:.4g} MB on this robot, above the release's "
            f"budget of {budgets.peak_memory_mb:g} MB",
            code="gate.memory_budget_exceeded",
        )
    budget_ms, no_comparison = budgets.latency_p99_ms, "no model is active"
    if budget_ms is None:
        return report
    within = is_within(budget_ms, report.cost, others=report.others, comparison=None)
    if within is None and active is not None:
        try:
            both = replace(limits, memory_mb=2 * limits.memory_mb)
            answer = _run_child(folder, request | {"active": str(active)}, both, heartbeat)
            report = replace(report, comparison=answer.comparison)
        except ReleaseRejectedError as error:
            no_comparison = f"timing it next to the active model failed: {error}"
        within = is_within(budget_ms, report.cost, others=report.others, comparison=report.comparison)
    if within:
        return report
    text = f"{folder}: {_describe_latency(report, budget_ms)}"
    if within is False:
        raise ReleaseRejectedError(text, code="gate.latency_budget_exceeded")
    if report.comparison is None:
        text += f"; not compared, because {no_comparison}"
    raise MachineBusyError(
        f"{text}: undecided, because load on this machine may be the reason", code="gate.latency_undecided"
    )


def _run_child(
    folder: Path, request: dict[str, str | bool | None], limits: ProbeLimits, heartbeat: Callable[[], None]
) -> Answer:
    arguments = {"folder": str(folder), **request, "limits": asdict(limits), "parent": os.getpid()}
    with memory_file() as answer, memory_file() as log:
        try:
            child = subprocess.Popen(
                [*python_module(CHILD), json.dumps(arguments)],
                stdin=subprocess.DEVNULL, stdout=answer, stderr=log,
                # A process with threads cannot unshare the network namespace; BLAS starts threads on import.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        except OSError as error:
            raise UpdateError(
                f"{folder}: cannot start the probe: {error}", code="gate.process_not_started"
            ) from error
        late = ReleaseRejectedError(
            f"{folder}: its probe did not end within {limits.wall_s:g} s (probe.wall_s): it hangs, or is too "
            "slow for this robot",
            code="gate.probe_timeout",
        )
        status = wait_for_exit(child, within_s=limits.wall_s, late=late, heartbeat=heartbeat)
        answer.seek(0)
        return parse_outcome(str(folder), status, answer.read(MAX_ANSWER_BYTES), tail(log), limits)


def wait_for_exit(
    child: subprocess.Popen[bytes],
    *,
    within_s: float,
    late: ReleaseRejectedError,
    heartbeat: Callable[[], None],
) -> int:
    """Return the exit status of a child, which does not outlive this call.

    Args:
        child: The process.
        within_s: The time that it may take.
        late: Raised if it does not end in time.
        heartbeat: Called while it runs.

    Raises:
        ReleaseRejectedError: It did not end in time.
        MachineBusyError: It did not, and waited for a processor most of that time.
    """
    began = looked = time.monotonic()
    ran, waited = 0.0, 0.0
    try:
        while (status := child.poll()) is None:
            before, looked = looked, time.monotonic()
            ran_before, (ran, wants) = ran, _cpu_time(child.pid)
            if wants and ran - ran_before < (looked - before) / 2:
                waited += looked - before
            if looked > began + within_s:
                if waited > within_s / 2:
                    raise MachineBusyError(
                        f"{late}; it waited for a processor for {waited:.0f} s of that: undecided, because "
                        "load on this machine may be the reason",
                        code="gate.timeout_undecided",
                    )
                raise late
            heartbeat()
            time.sleep(_POLL_S)
        return status
    finally:
        child.kill()
        child.wait()


def _cpu_time(pid: int) -> tuple[float, bool]:
    """Return how long the threads of a process have run, in seconds, and whether one is runnable now."""
    ran, wants = 0.0, False
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            ran += int((thread / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
            # The state follows the name, which may contain anything.
            wants |= (thread / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "R"
    return ran, wants


def memory_file() -> IO[bytes]:
    """Return a file in memory for the output of a child, so that a full disk does not fail a model."""
    return os.fdopen(os.memfd_create("jepa"), "w+b")


def tail(log: IO[bytes]) -> bytes:
    """Return the end of a child's output."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
    return log.read()


def parse_outcome(where: str, status: int, answer: bytes, log: bytes, limits: ProbeLimits) -> Answer:
    """Return the answer of a child that has ended.

    Args:
        where: The bundle, for messages.
        status: The exit status, or minus the number of a signal.
        answer: The child's standard output.
        log: The end of its standard error.
        limits: The limits of the process.

    Raises:
        ReleaseRejectedError: It did not end with a report.
    """
    text = log.decode("utf-8", "replace").strip()
    no_memory = ReleaseRejectedError(
        f"{where}: its probe needs more memory than {limits.memory_mb} MB (probe.memory_mb)",
        code="gate.probe_memory",
    )
    if status == -signal.SIGXCPU:
        raise ReleaseRejectedError(
            f"{where}: its probe took more than {limits.cpu_s} s of processor time (probe.cpu_s)",
            code="gate.probe_cpu_time",
        )
    if status and any(sign in text for sign in _NO_MEMORY):
        raise no_memory
    if status < 0:
        # Real-time signals have no names.
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        killed = " (by the kernel when memory ran out, or by hand)" if status == -signal.SIGKILL else ""
        raise ReleaseRejectedError(
            f"{where}: its probe crashed: {name}{killed}{_last_line(text)}", code="gate.probe_crashed"
        )
    if status:
        raise ReleaseRejectedError(
            f"{where}: its probe failed with exit status {status}{_last_line(text)}", code="gate.probe_failed"
        )
    try:
        read = Answer.model_validate_json(answer)
    except ValidationError:
        shown = answer[:80].decode("utf-8", "replace")
        raise ReleaseRejectedError(
            f"{where}: its probe returned an invalid report: {shown!r}", code="gate.probe_invalid_report"
        ) from None
    if read.report is None and read.comparison is None:
        if any(sign in read.reason for sign in _NO_MEMORY):
            raise no_memory
        raise ReleaseRejectedError(
            read.reason or f"{where}: its probe returned neither a report nor a reason", code=read.code
        )
    return read


def _describe_latency(report: ProbeReport, budget_ms: float) -> str:
    """Describe the measured latency of a frame in one sentence."""
    measure = "wall-clock time" if report.by_clock else "processor time"
    text = f"p99 {measure} of one frame is {report.cost.p99_ms:.4g} ms on this robot"
    if not report.by_clock:
        text += f" ({report.latency_p99_ms:.4g} ms wall-clock time)"
    if report.others is not None:
        text += f" while other processes use {report.others:.0%} of its processors"
    if (both := report.comparison) is not None:
        text += (
            f", {both.ratio:.3g} times ({CONFIDENCE:.0%} interval {both.low:.3g} to {both.high:.3g}) that of "
            f"the active model, whose p99 is {both.active.p99_ms:.4g} ms in the same minutes"
        )
    return f"{text}; the release's budget is {budget_ms:g} ms"


def _last_line(text: str) -> str:
    return f": {text.splitlines()[-1][:_MAX_REASON]}" if text else ""
