"""Compilers of others run in a process of their own: they may hang, take all memory, or crash."""

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

_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a compilation may take: ``time_s`` of wall clock, and resident memory. (Rlimits do not serve: of
    address space Wine and CUDA reserve much more than they use, and Wine's memory escapes RLIMIT_DATA.)"""

    time_s: float = 900
    memory_bytes: int = 12 << 30


def run_confined(
    command: Sequence[str],
    *,
    folder: Path,
    limits: Limits,
    what: str,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run ``command`` in ``folder`` within ``limits``; it and its process group end with this call.

    Args:
        what: names it in messages.
        environment: variables besides those of this process.

    Returns:
        Its exit status, and what it printed (stdout and stderr together).

    Raises:
        JepaExportError: it cannot be started, exceeded a limit, or was ended by a signal.
    """
    # Not a pipe: what it leaves running would keep that open.
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
            raise JepaExportError(f"{what}: cannot start {command[0]}: {error}") from error
        try:
            status = _wait(process, limits, what)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(0)
        said = printed.read().decode(errors="replace").replace("\r", "")
    if status < 0:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise JepaExportError(f"{what}: ended by {signal.Signals(-status).name}: {last[0]}")
    return status, said


def _wait(process: subprocess.Popen[bytes], limits: Limits, what: str) -> int:
    """Its exit status, once it has ended by itself."""
    end = time.monotonic() + limits.time_s
    while True:
        try:
            return process.wait(min(_LOOK_S, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise JepaExportError(f"{what}: not done after {limits.time_s:g} s, given up") from None
            if _resident_bytes(process.pid) > limits.memory_bytes:
                allowed = f"{limits.memory_bytes / 1e9:.3g} GB"
                raise JepaExportError(f"{what}: took more than {allowed} of memory, given up") from None


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
