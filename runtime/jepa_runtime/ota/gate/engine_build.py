"""A candidate's engines that take minutes to build (TensorRT): built before it is tried, beside what serves.

In a process of its own, since a builder may crash, hang or take all memory, and of the weakest priority. It
writes where engines are kept, so it is not confined as a probe is: what it reads was verified, and what it
builds is tried by the probe that follows.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jepa_runtime.backends.registry import requires_build
from jepa_runtime.errors import ReleaseRejectedError, UpdateError
from jepa_runtime.ota.gate.probe import end_of, in_memory, tail
from jepa_runtime.util.compat import python

COMMAND = python("from jepa_runtime.cli import main; raise SystemExit(main())")


def build(
    folder: Path,
    *,
    engine: str,
    precision: str | None = None,
    wall_s: float,
    alive: Callable[[], None],
) -> None:
    """Build what is missing; nothing for engines that need no building.

    Args:
        folder: of the bundle.
        engine, precision: that will serve it.
        wall_s: the longest that it may take.
        alive: is called while it is built.

    Raises:
        ReleaseRejectedError: an engine could not be built, or not in time; the message ends with its output.
        MachineBusyError: it was not built in time, and waited for a processor most of that time.
        UpdateError: the process could not be started.
    """
    if not requires_build(engine):
        return
    asked = ["build-engine", str(folder), "--engine", engine]
    if precision is not None:
        asked += ["--precision", precision]
    with in_memory() as log:
        try:
            child = subprocess.Popen(
                ["nice", "-n", "19", *COMMAND, *asked],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # What it says last comes last, on whichever of the two.
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise UpdateError(f"{folder}: the builder of its engines cannot be started: {error}") from error
        # Where memory runs out, it is the builder that is ended, not what serves.
        with suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        late = f"{folder}: its engines were not built within {wall_s:g} s"
        status = end_of(child, within_s=wall_s, late=late, alive=alive)
        if status:
            said = tail(log).decode("utf-8", "replace").strip().splitlines() or ["it does not say why"]
            raise ReleaseRejectedError(
                f"{folder}: its engines cannot be built (exit status {status}): {said[-1]}"
            )
