"""Builds the engines of a candidate, which takes minutes, before it is probed.

The builder runs in its own process at the lowest priority, next to the serving process, because it may crash,
hang or exhaust memory. It writes to the engine cache, so it is not confined like a probe: its input was
verified, and its output is tried by the probe that follows.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jepa_runtime.backends.registry import requires_build
from jepa_runtime.errors import ReleaseRejectedError, UpdateError
from jepa_runtime.ota.gate.probe import memory_file, tail, wait_for_exit
from jepa_runtime.util.compat import python

COMMAND = python("from jepa_runtime.cli import main; raise SystemExit(main())")


def build(
    folder: Path,
    *,
    engine: str,
    precision: str | None = None,
    wall_s: float,
    heartbeat: Callable[[], None],
) -> None:
    """Build missing engines; do nothing for backends without engines.

    Args:
        folder: The bundle.
        engine: The engine that will serve it.
        precision: The precision that will serve it.
        wall_s: The longest time that the build may take.
        heartbeat: Called during the build.

    Raises:
        ReleaseRejectedError: An engine could not be built, or not in time; the message ends with the
            builder's last output.
        MachineBusyError: The build timed out, and waited for a processor most of that time.
        UpdateError: The process could not be started.
    """
    if not requires_build(engine):
        return
    arguments = ["build-engine", str(folder), "--engine", engine]
    if precision is not None:
        arguments += ["--precision", precision]
    with memory_file() as log:
        try:
            child = subprocess.Popen(
                ["nice", "-n", "19", *COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Unbuffered, so that the last line is the last one printed, on either stream.
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise UpdateError(
                f"{folder}: cannot start the engine builder: {error}", code="gate.process_not_started"
            ) from error
        # If memory runs out, the kernel ends the builder, not the serving process.
        with suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        late = ReleaseRejectedError(
            f"{folder}: its engines were not built within {wall_s:g} s (probe.build_s): raise the limit, or "
            "publish a smaller model",
            code="gate.engine_build_timeout",
        )
        status = wait_for_exit(child, within_s=wall_s, late=late, heartbeat=heartbeat)
        if status:
            output = tail(log).decode("utf-8", "replace").strip().splitlines() or ["no output"]
            raise ReleaseRejectedError(
                f"{folder}: cannot build its engines (exit status {status}): {output[-1]}",
                code="gate.engine_build_failed",
            )
