"""The second gate: a candidate is opened, compared with its golden outputs, and timed, in its own process.

A model is data, but data can crash the engine that reads it, hang it, or take all memory. Whatever happens to
the child (see :mod:`~jepa_runtime.ota.gate.probe_process` for what it is denied), the caller gets a report
or the reason why there is none.
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
    """What a probe may take; beyond it the child is ended.

    Attributes:
        memory_mb: that it may write to (RLIMIT_DATA: heap, buffers, stacks of threads); twice that where
            it is timed next to the active model. Address space would be no measure: engines reserve far more
            than they use.
        cpu_s: of processor time.
        wall_s: from start to report.
        threads: for one inference, as it will serve.
        build_s: to build its engines before that, from start to end, where it takes any.

    Raises:
        ValueError: one is not above 0.
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
    """What a probe found.

    Attributes:
        latency_p50_ms, latency_p99_ms: of one golden frame, encode and predict, by the clock; of several
            rounds, the quietest.
        cost: what a frame costs, which the budget is compared with. by_clock: whether that is time by the
            clock, not processor time.
        others: proportion of the processors that other processes used meanwhile; None: unknown.
        peak_memory_mb: resident memory of the process at its largest.
        network_cut: whether the process had no network; it keeps it where the kernel has neither namespaces
            nor seccomp.
        disk_cut: whether it could not write to the disk; it can for the engine of a GPU or an NPU, and where
            there is no seccomp or no Landlock of Linux 6.2.
        comparison: with the active model; None: it was not needed, or not possible.
    """

    latency_p50_ms: float
    latency_p99_ms: float
    cost: Cost
    by_clock: bool
    others: float | None
    peak_memory_mb: float
    network_cut: bool
    disk_cut: bool
    comparison: Comparison | None = None


class Answer(BaseModel):
    """What the child writes: a report, a comparison, or the reason why there is none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    report: ProbeReport | None = None
    comparison: Comparison | None = None
    reason: str = ""


def probe(
    folder: Path,
    *,
    budgets: Budgets,
    active: Path | None = None,
    engine: str = DEFAULT_ENGINE,
    precision: str | None = None,
    limits: ProbeLimits | None = None,
    require_sandbox: bool = True,
    alive: Callable[[], None] = lambda: None,
) -> ProbeReport:
    """Try a bundle in a process of its own.

    Args:
        folder: of the bundle.
        budgets: of its release; ``max_error_ratio`` is not for this gate.
        active: the bundle that serves, for a comparison where load may be why the candidate is over its
            latency budget (:mod:`~jepa_runtime.ota.gate.latency_budget`); None: nothing serves, and the probe
            has the priority of this process instead of the lowest.
        engine, precision: that will serve it; precision None: the first that the engine can run.
        require_sandbox: refuse the bundle, without opening it, where its process cannot be cut off from the
            network or, on a CPU, from the disk.
        alive: is called meanwhile.

    Raises:
        ReleaseRejectedError: it is no valid bundle, crashed, hung, took too much, computes other values than
            it should, or is over a budget; the message says which.
        MachineBusyError: it is over its latency budget, and load may be the reason.
        UpdateError: the process could not be started.
    """
    limits = limits or ProbeLimits()
    asked = {
        "engine": engine, "precision": precision, "active": None, "yields": active is not None,
        "require_sandbox": require_sandbox,
    }  # fmt: skip
    report = _answer_of(folder, asked, limits, alive).report
    if report is None:
        raise ReleaseRejectedError(f"{folder}: its probe gave no report")
    _check(str(folder), "peak memory", report.peak_memory_mb, budgets.peak_memory_mb, "MB")
    budget_ms, why_not = budgets.latency_p99_ms, "nothing serves"
    if budget_ms is None:
        return report
    within = is_within(budget_ms, report.cost, others=report.others, comparison=None)
    if within is None and active is not None:
        try:
            both = replace(limits, memory_mb=2 * limits.memory_mb)
            answer = _answer_of(folder, asked | {"active": str(active)}, both, alive)
            report = replace(report, comparison=answer.comparison)
        except ReleaseRejectedError as error:
            why_not = f"it could not be timed next to the active model: {error}"
        within = is_within(budget_ms, report.cost, others=report.others, comparison=report.comparison)
    if within:
        return report
    told = f"{folder}: {_latency(report, budget_ms)}"
    if within is False:
        raise ReleaseRejectedError(told)
    if report.comparison is None:
        told += f"; not compared, since {why_not}"
    raise MachineBusyError(f"{told}: undecided, because load on this machine may be the reason")


def _answer_of(
    folder: Path, asked: dict[str, str | bool | None], limits: ProbeLimits, alive: Callable[[], None]
) -> Answer:
    told = {"folder": str(folder), **asked, "limits": asdict(limits), "parent": os.getpid()}
    with in_memory() as answer, in_memory() as log:
        try:
            child = subprocess.Popen(
                [*python_module(CHILD), json.dumps(told)],
                stdin=subprocess.DEVNULL, stdout=answer, stderr=log,
                # A process with threads cannot leave the network's namespace; BLAS starts some when imported.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        except OSError as error:
            raise UpdateError(f"{folder}: the process to probe it cannot be started: {error}") from error
        late = f"its probe did not end within {limits.wall_s:g} s: it hangs, or is too slow for this robot"
        status = end_of(child, within_s=limits.wall_s, late=f"{folder}: {late}", alive=alive)
        answer.seek(0)
        return judge(str(folder), status, answer.read(MAX_ANSWER_BYTES), tail(log), limits)


def end_of(child: subprocess.Popen[bytes], *, within_s: float, late: str, alive: Callable[[], None]) -> int:
    """The exit status of a child, which does not outlive this call; ``alive`` is called meanwhile.

    Raises:
        ReleaseRejectedError: it does not end in time, as ``late`` says.
        MachineBusyError: it does not, and waited for a processor most of that time.
    """
    began = looked = time.monotonic()
    ran, waited = 0.0, 0.0
    try:
        while (status := child.poll()) is None:
            before, looked = looked, time.monotonic()
            ran_before, (ran, wants) = ran, _work_of(child.pid)
            if wants and ran - ran_before < (looked - before) / 2:
                waited += looked - before
            if looked > began + within_s:
                if waited > within_s / 2:
                    raise MachineBusyError(
                        f"{late}; for {waited:.0f} s of that it waited for a processor: undecided, because "
                        "load on this machine may be the reason"
                    )
                raise ReleaseRejectedError(late)
            alive()
            time.sleep(_POLL_S)
        return status
    finally:
        child.kill()
        child.wait()


def _work_of(pid: int) -> tuple[float, bool]:
    """For how long the threads of a process have run, all together, and whether one wants to run now."""
    ran, wants = 0.0, False
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            ran += int((thread / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
            # After its name, which may hold anything.
            wants |= (thread / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "R"
    return ran, wants


def in_memory() -> IO[bytes]:
    """A file for what a child writes: that a disk is full is no fault of a model."""
    return os.fdopen(os.memfd_create("jepa"), "w+b")


def tail(log: IO[bytes]) -> bytes:
    """The last of what a child wrote to a file."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
    return log.read()


def judge(where: str, status: int, answer: bytes, log: bytes, limits: ProbeLimits) -> Answer:
    """What the end of a child means.

    Args:
        where: the bundle, for messages.
        status: how it ended: its exit status, or minus the number of a signal.
        answer, log: what it wrote to standard output, and last to standard error.

    Raises:
        ReleaseRejectedError: it did not end with a report.
    """
    told = log.decode("utf-8", "replace").strip()
    no_memory = ReleaseRejectedError(
        f"{where}: its probe needs more than the {limits.memory_mb} MB of memory that it may have"
    )
    if status == -signal.SIGXCPU:
        raise ReleaseRejectedError(f"{where}: its probe took more than {limits.cpu_s} s of processor time")
    if status and any(sign in told for sign in _NO_MEMORY):
        raise no_memory
    if status < 0:
        # Real-time signals have no names.
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        killed = " (by the system if memory ran out, or by hand)" if status == -signal.SIGKILL else ""
        raise ReleaseRejectedError(f"{where}: its probe crashed: {name}{killed}{_last_line(told)}")
    if status:
        raise ReleaseRejectedError(f"{where}: its probe failed with exit status {status}{_last_line(told)}")
    try:
        read = Answer.model_validate_json(answer)
    except ValidationError:
        shown = answer[:80].decode("utf-8", "replace")
        raise ReleaseRejectedError(f"{where}: its probe answered what is no report: {shown!r}") from None
    if read.report is None and read.comparison is None:
        if any(sign in read.reason for sign in _NO_MEMORY):
            raise no_memory
        raise ReleaseRejectedError(read.reason or f"{where}: its probe gave neither report nor reason")
    return read


def _check(where: str, what: str, measured: float, most: float | None, unit: str) -> None:
    if most is not None and measured > most:
        raise ReleaseRejectedError(
            f"{where}: {what} is {measured:.4g} {unit} on this robot, its release allows {most:g} {unit}"
        )


def _latency(report: ProbeReport, budget_ms: float) -> str:
    """What was measured of the latency of a frame, and how, in one sentence."""
    kind = "by the clock" if report.by_clock else "of processor time"
    told = f"p99 of one frame is {report.cost.p99_ms:.4g} ms {kind} on this robot"
    if not report.by_clock:
        told += f" ({report.latency_p99_ms:.4g} ms by the clock)"
    if report.others is not None:
        told += f" while other processes use {report.others:.0%} of its processors"
    if (both := report.comparison) is not None:
        told += (
            f", {both.ratio:.3g} times ({CONFIDENCE:.0%} interval {both.low:.3g} to {both.high:.3g}) as much "
            f"as the active model, with a p99 of {both.active.p99_ms:.4g} ms in the same minutes"
        )
    return f"{told}; its release allows {budget_ms:g} ms"


def _last_line(told: str) -> str:
    return f": {told.splitlines()[-1][:_MAX_REASON]}" if told else ""
