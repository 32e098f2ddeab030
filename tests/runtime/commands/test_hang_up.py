"""A terminal that hangs up, as where the connection to a robot breaks off, costs no file that is wanted."""

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
# Of who has them ignored, as `trap '' HUP` does: nobody ends the command.
IGNORANT = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {MAIN}"


def hang_up_on(code: str, *arguments: str, once: bytes) -> int:
    """Run the command on a terminal of its own, which hangs up once it shows ``once``; the exit status."""
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
    # As a shell passes it on to what it has started.
    if process.poll() is None:
        process.send_signal(signal.SIGHUP)
    return process.wait(timeout=60)


def frames_of_a_run(found: dict[str, Any]) -> int:
    return int(found["frames_processed"])


def frames_of_a_profile(found: dict[str, Any]) -> int:
    return len(found["run"]["latency_ms"])


@pytest.mark.parametrize(
    ("command", "once", "frames"),
    [
        (["run", "--source", "two_rooms"], b"dropped", frames_of_a_run),
        (["profile", "--skip", "all"], b"open loop", frames_of_a_profile),
    ],
)
@pytest.mark.parametrize(("code", "ends"), [(MAIN, True), (IGNORANT, False)])
def test_what_was_measured_is_written_although_nothing_can_be_shown_any_more(
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
    told = ["--bundle", str(toy_bundle), "--duration", seconds, "--json", str(out)]
    assert hang_up_on(code, *command, *told, once=once) == 0
    found = frames(json.loads(out.read_text()))
    assert 0 < found < 1000 if ends else found > 60


@pytest.mark.parametrize("listening", ["stop_on_signals", "interrupted_by_signals"])
def test_the_second_hang_up_may_come_when_nobody_listens_any_more(listening: str) -> None:
    """Of the system and the shell, which comes last cannot be told; files may still be being written."""
    code = (
        "import contextlib, signal\n"
        f"from jepa_runtime.commands.signals import {listening}\n"
        f"with contextlib.suppress(KeyboardInterrupt), {listening}():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "signal.raise_signal(signal.SIGHUP)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_signal_while_a_command_waits_ends_it() -> None:
    """In every line of the wait: with the lock of an Event taken, its set() would wait for that for ever."""
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
