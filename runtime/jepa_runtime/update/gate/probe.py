"""The second gate: a candidate is opened, compared with its golden outputs, and timed, in its own process.

A model is data, but data can crash the engine that reads it, hang it, or take all memory. Whatever happens to
the child (see :mod:`~jepa_runtime.update.gate.probe_child` for what it is denied), the caller gets a report
or the reason why there is none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from jepa_runtime.compat import python_module
from jepa_runtime.errors import RefusedError, UpdateError
from jepa_runtime.update.release import Budgets

CHILD = "jepa_runtime.update.gate.probe_child"
MAX_ANSWER_BYTES = 1 << 20
_TAIL_BYTES = 4096
_POLL_S = 0.2
_MAX_REASON = 500
_NO_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "Failed to allocate", "can't alloc")


@dataclass(frozen=True, kw_only=True)
class ProbeLimits:
    """What a probe may take; beyond it the child is ended.

    Attributes:
        memory_mb: that it may write to (RLIMIT_DATA: heap, buffers, stacks of threads). Address space
            would be no measure: engines reserve far more than they use.
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
        latency_p50_ms, latency_p99_ms: of one golden frame, encode and predict; of several rounds, the
            quietest.
        peak_memory_mb: resident memory of the process at its largest.
        network_cut: whether the process had no network; it keeps it where the kernel has neither namespaces
            nor seccomp.
        disk_cut: whether it could not write to the disk; it can for the engine of a GPU or an NPU, and where
            there is no seccomp or no Landlock of Linux 6.2.
    """

    latency_p50_ms: float
    latency_p99_ms: float
    peak_memory_mb: float
    network_cut: bool
    disk_cut: bool


class Answer(BaseModel):
    """What the child writes: a report, or the reason why there is none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    report: ProbeReport | None = None
    reason: str = ""


def probe(
    folder: Path,
    *,
    budgets: Budgets,
    engine: str = "openvino:CPU",
    precision: str | None = None,
    limits: ProbeLimits | None = None,
    require_sandbox: bool = True,
    alive: Callable[[], None] = lambda: None,
) -> ProbeReport:
    """Try a bundle in a process of its own.

    Args:
        folder: of the bundle.
        budgets: of its release; ``max_error_ratio`` is not for this gate.
        engine, precision: that will serve it; precision None: the first that the engine can run.
        require_sandbox: refuse the bundle, without opening it, where its process cannot be cut off from the
            network or, on a CPU, from the disk.
        alive: is called meanwhile.

    Raises:
        RefusedError: it is no valid bundle, crashed, hung, took too much, computes something else than it
            should, or is over a budget; the message says which.
        UpdateError: the process could not be started.
    """
    limits = limits or ProbeLimits()
    told = {
        "folder": str(folder), "engine": engine, "precision": precision, "limits": asdict(limits),
        "parent": os.getpid(), "require_sandbox": require_sandbox,
    }  # fmt: skip
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
        report = judge(str(folder), status, answer.read(MAX_ANSWER_BYTES), tail(log), limits)
    _check_budgets(str(folder), report, budgets)
    return report


def end_of(child: subprocess.Popen[bytes], *, within_s: float, late: str, alive: Callable[[], None]) -> int:
    """The exit status of a child, which does not outlive this call; ``alive`` is called meanwhile.

    Raises:
        RefusedError: it does not end in time, as ``late`` says.
    """
    ends = time.monotonic() + within_s
    try:
        while (status := child.poll()) is None:
            if time.monotonic() > ends:
                raise RefusedError(late)
            alive()
            time.sleep(_POLL_S)
        return status
    finally:
        child.kill()
        child.wait()


def in_memory() -> IO[bytes]:
    """A file for what a child writes: that a disk is full is no fault of a model."""
    return os.fdopen(os.memfd_create("jepa"), "w+b")


def tail(log: IO[bytes]) -> bytes:
    """The last of what a child wrote to a file."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
    return log.read()


def judge(where: str, status: int, answer: bytes, log: bytes, limits: ProbeLimits) -> ProbeReport:
    """What the end of a child means.

    Args:
        where: the bundle, for messages.
        status: how it ended: its exit status, or minus the number of a signal.
        answer, log: what it wrote to standard output, and last to standard error.

    Raises:
        RefusedError: it did not end with a report.
    """
    told = log.decode("utf-8", "replace").strip()
    no_memory = RefusedError(
        f"{where}: its probe needs more than the {limits.memory_mb} MB of memory that it may have"
    )
    if status == -signal.SIGXCPU:
        raise RefusedError(f"{where}: its probe took more than {limits.cpu_s} s of processor time")
    if status and any(sign in told for sign in _NO_MEMORY):
        raise no_memory
    if status < 0:
        # Real-time signals have no names.
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        killed = " (by the system if memory ran out, or by hand)" if status == -signal.SIGKILL else ""
        raise RefusedError(f"{where}: its probe crashed: {name}{killed}{_last_line(told)}")
    if status:
        raise RefusedError(f"{where}: its probe failed with exit status {status}{_last_line(told)}")
    try:
        read = Answer.model_validate_json(answer)
    except ValidationError:
        shown = answer[:80].decode("utf-8", "replace")
        raise RefusedError(f"{where}: its probe answered what is no report: {shown!r}") from None
    if read.report is None:
        if any(sign in read.reason for sign in _NO_MEMORY):
            raise no_memory
        raise RefusedError(read.reason or f"{where}: its probe gave neither report nor reason")
    return read.report


def _check_budgets(where: str, report: ProbeReport, budgets: Budgets) -> None:
    for what, measured, most, unit in (
        ("p99 of one frame", report.latency_p99_ms, budgets.latency_p99_ms, "ms"),
        ("peak memory", report.peak_memory_mb, budgets.peak_memory_mb, "MB"),
    ):
        if most is not None and measured > most:
            raise RefusedError(
                f"{where}: {what} is {measured:.4g} {unit} on this robot, its release allows {most:g} {unit}"
            )


def _last_line(told: str) -> str:
    return f": {told.splitlines()[-1][:_MAX_REASON]}" if told else ""
