"""System calls that change a disk: which ones a process makes, and what happens if one of them fails or is
its last. strace(1) stands in between; the process is a child that is forked for it, with all imports done.

A call is known by its name and by its number among those of that name, so what is traced has to do the same
each time.
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
# Names that a machine does not know are left out by the question mark.
_TRACE = "trace=" + ",".join(f"?{name}" for name in CALLS)
_LINE = re.compile(r"(\w+)\(")
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
# What differs from run to run in names: random parts.
_RANDOM = re.compile(r"[0-9a-f]{32}(?![0-9a-f])|(?<=/tmp)\w{8}(?=$)")
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1
_LIMIT_S = 60.0
_MESSAGE_BYTES = 1 << 17

Say = Callable[[bytes], object]


@dataclass(frozen=True)
class Call:
    """One that changes something below the folder of interest: the ``number``-th of this name."""

    name: str
    number: int
    path: str

    def __str__(self) -> str:
        return f"{self.name} no. {self.number} ({self.path})"


@dataclass(frozen=True)
class Ended:
    """How a child ended, what it said until then, and every call that it made."""

    status: int
    said: list[bytes]
    calls: list[Call | None]
    names: list[str]


def missing() -> str:
    """Why nothing can be traced here; empty: it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        done = run(lambda say: say(b"heartbeat"), Path("/"), Path(os.devnull), [])
    except TimeoutError as error:
        return f"strace cannot attach to a process here: {error}"
    return "" if done.said == [b"heartbeat"] else f"what strace traces does not work here: {done}"


def run(act: Callable[[Say], object], below: Path, log: Path, options: Sequence[str]) -> Ended:
    """Do something in a traced child.

    Args:
        act: is given a way to say something that no fault can hold up.
        below: the folder of interest.
        log: a file for strace.
        options: more for strace, such as what to inject.

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
        said = list(iter(lambda: ours.recv(_MESSAGE_BYTES), b""))
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
    return Ended(status, said, calls, names)


def _child(act: Callable[[Say], object], channel: socket.socket) -> None:
    status = 1
    try:
        # Where the system allows only parents to trace.
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
    # It has attached; that it also interrupts the child follows at once.
    time.sleep(0.002)


def _calls(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if found := _LINE.match(line):
            yield found[1], line


def _changing(name: str, number: int, line: str, below: Path) -> Call | None:
    if name.startswith("open") and not _WRITES.search(line):
        return None
    place = re.search(re.escape(str(below)) + r'(/[^">]*|(?=[">]))', line)
    return None if place is None else Call(name, number, _RANDOM.sub("*", place[1]) or "/")
