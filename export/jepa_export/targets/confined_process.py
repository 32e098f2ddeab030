"""Vendor compilers run in a process with limits, because they may hang, exhaust memory, or crash."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jepa_export.errors import JepaExportError

_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """Limits of wall-clock time and resident memory.

    Rlimits are unsuitable: Wine and CUDA reserve far more address space than they use, and Wine's memory is
    not subject to RLIMIT_DATA.
    """

    time_s: float = 900
    memory_bytes: int = 12 << 30


def run_confined(
    command: Sequence[str],
    *,
    folder: Path,
    limits: ProcessLimits,
    what: str,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run ``command`` in ``folder`` within ``limits``; its process group is killed when it returns.

    Args:
        command: Program and arguments.
        folder: Working directory.
        limits: Limits of the process.
        what: Name of the program in messages.
        environment: Variables added to those of this process.

    Returns:
        The exit status, and the output (stdout and stderr together).

    Raises:
        JepaExportError: The program cannot be started, exceeded a limit, or was ended by a signal.
    """
    # Not a pipe, which a surviving child would keep open.
    with tempfile.TemporaryFile() as printed:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise JepaExportError(
                f"{what}: cannot start {command[0]}: {error}", code="target.compiler_not_started"
            ) from error
        try:
            status = _wait(process, limits, what)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(0)
        output = printed.read().decode(errors="replace").replace("\r", "")
    if status < 0:
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        raise JepaExportError(
            f"{what}: ended by {signal.Signals(-status).name}: {last[0]}", code="target.compiler_crashed"
        )
    return status, output


def _wait(process: subprocess.Popen[bytes], limits: ProcessLimits, what: str) -> int:
    """Return the exit status."""
    end = time.monotonic() + limits.time_s
    while True:
        try:
            return process.wait(min(_POLL_S, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise JepaExportError(
                    f"{what}: not finished after {limits.time_s:g} s, stopped",
                    code="target.compiler_timeout",
                ) from None
            if _resident_bytes(process.pid) > limits.memory_bytes:
                allowed = f"{limits.memory_bytes / 1e9:.3g} GB"
                raise JepaExportError(
                    f"{what}: used more than {allowed} of memory, stopped",
                    code="target.compiler_out_of_memory",
                ) from None


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
