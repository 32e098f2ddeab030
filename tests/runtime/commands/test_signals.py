"""Files are written although the terminal hangs up, as when a connection to a robot breaks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MAIN = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
# A command with SIGHUP ignored, as by `trap '' HUP`, is not ended.
IGNORANT = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {MAIN}"


def hang_up_on(code: str, *arguments: str, once: bytes) -> int:
    """Run a command on a terminal that hangs up once it shows ``once``; return the exit status."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while once not in shown:
        shown += os.read(ours, 1 << 16)
    os.close(ours)
    # As a shell forwards it to its children.
    if process.poll() is None:
        process.send_signal(signal.SIGHUP)
    return process.wait(timeout=60)


def frames_of_a_run(result: dict[str, Any]) -> int:
    return int(result["frames_processed"])


def frames_of_a_profile(result: dict[str, Any]) -> int:
    return len(result["run"]["latency_ms"])


@pytest.mark.parametrize(
    ("command", "once", "frames"),
    [
        (["run", "--source", "two_rooms"], b"dropped", frames_of_a_run),
        (["profile", "--skip", "all"], b"open loop", frames_of_a_profile),
    ],
)
@pytest.mark.parametrize(("code", "ends"), [(MAIN, True), (IGNORANT, False)])
def test_results_are_written_after_the_terminal_hangs_up(
    toy_bundle: Path,
    tmp_path: Path,
    command: list[str],
    once: bytes,
    frames: Callable[[dict[str, Any]], int],
    code: str,
    ends: bool,
) -> None:
    out = tmp_path / "found.json"
    seconds = "60" if ends else "4"
    messages = [str(toy_bundle), "--duration", seconds, "--json", str(out)]
    assert hang_up_on(code, *command, *messages, once=once) == 0
    result = frames(json.loads(out.read_text()))
    assert 0 < result < 1000 if ends else result > 60


@pytest.mark.parametrize("listening", ["stop_on_signals", "interrupted_by_signals"])
def test_second_hang_up_after_the_command_is_ignored(listening: str) -> None:
    """The system and the shell both send SIGHUP in any order, maybe while files are being written."""
    code = (
        "import contextlib, signal\n"
        f"from jepa_runtime.commands.signals import {listening}\n"
        f"with contextlib.suppress(KeyboardInterrupt), {listening}():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "signal.raise_signal(signal.SIGHUP)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_signal_during_wait_ends_the_command() -> None:
    """In any line of the wait: while it holds the lock of an Event, set() in a handler would wait forever."""
    code = (
        "import signal, sys\n"
        "from jepa_runtime.commands.signals import stop_on_signals\n"
        "def interrupt(frame, event, _):\n"
        "    if frame.f_code.co_name == 'wait':\n"
        "        signal.raise_signal(signal.SIGHUP)\n"
        "        return interrupt\n"
        "with stop_on_signals() as stopping:\n"
        "    sys.settrace(interrupt)\n"
        "    waited = stopping.wait(60)\n"
        "    sys.settrace(None)\n"
        "    assert waited and stopping.is_set() and stopping.wait(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
