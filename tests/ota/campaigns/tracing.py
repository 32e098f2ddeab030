"""Trace the system calls of a process that change a disk, and make one of them fail or be its last. It uses
strace(1); the process is a forked child with all imports done.

A call is identified by its name and its number among those of that name, so the traced function must be
deterministic.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open", "openat", "openat2", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile",
    "copy_file_range", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range",
    "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat",
    "rmdir", "mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown",
    "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat",
)  # fmt: skip
# The question mark skips names that a machine does not know.
_TRACE = "trace=" + ",".join(f"?{name}" for name in CALLS)
_LINE = re.compile(r"(\w+)\(")
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
# Random parts of names, which differ from run to run.
_RANDOM = re.compile(r"[0-9a-f]{32}(?![0-9a-f])|(?<=/tmp)\w{8}(?=$)")
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1
_LIMIT_S = 60.0
_MESSAGE_BYTES = 1 << 17

Say = Callable[[bytes], object]


@dataclass(frozen=True)
class Call:
    """A call that changes something below the folder of interest: the ``number``-th of this name."""

    name: str
    number: int
    path: str

    def __str__(self) -> str:
        return f"{self.name} no. {self.number} ({self.path})"


@dataclass(frozen=True)
class Ended:
    """Contain the status of a child, its messages, and its calls."""

    status: int
    messages: list[bytes]
    calls: list[Call | None]
    names: list[str]


def missing() -> str:
    """Return the reason why tracing is impossible here, or an empty string."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        done = run(lambda send: send(b"heartbeat"), Path("/"), Path(os.devnull), [])
    except TimeoutError as error:
        return f"strace cannot attach to a process here: {error}"
    return "" if done.messages == [b"heartbeat"] else f"what strace traces does not work here: {done}"


def run(act: Callable[[Say], object], below: Path, log: Path, options: Sequence[str]) -> Ended:
    """Run a function in a traced child.

    Args:
        act: The function; it receives a function that sends a message, which no fault affects.
        below: The folder of interest.
        log: A file for strace.
        options: More options of strace, such as faults to inject.

    Raises:
        TimeoutError: strace did not attach, or the child did not end.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        _child(act, theirs)
    theirs.close()
    tracer = subprocess.Popen(
        ["strace", "-p", str(pid), "-o", str(log), "-y", "-s", "0", "-e", _TRACE, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_tracer(pid, tracer)
        ours.settimeout(_LIMIT_S)
        ours.send(b"go")
        messages = list(iter(lambda: ours.recv(_MESSAGE_BYTES), b""))
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
        tracer.wait()
        ours.close()
    lines = log.read_text("ascii", "replace").splitlines() if log.is_file() else []
    numbers: Counter[str] = Counter()
    calls, names = [], []
    for name, line in _calls(lines):
        numbers[name] += 1
        names.append(name)
        calls.append(_changing(name, numbers[name], line, below))
    return Ended(status, messages, calls, names)


def _child(act: Callable[[Say], object], channel: socket.socket) -> None:
    status = 1
    try:
        # For systems that allow only parents to trace.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_long(_ANYBODY), 0, 0, 0)
        channel.recv(2)
        act(channel.send)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait_for_tracer(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _LIMIT_S
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > ends:
            raise TimeoutError(f"it ended with {tracer.poll()}")
        time.sleep(0.001)
    # strace has attached; the interruption of the child follows.
    time.sleep(0.002)


def _calls(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if match := _LINE.match(line):
            yield match[1], line


def _changing(name: str, number: int, line: str, below: Path) -> Call | None:
    if name.startswith("open") and not _WRITES.search(line):
        return None
    place = re.search(re.escape(str(below)) + r'(/[^">]*|(?=[">]))', line)
    return None if place is None else Call(name, number, _RANDOM.sub("*", place[1]) or "/")
