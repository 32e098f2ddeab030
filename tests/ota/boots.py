"""Boots of a robot: ``run --robot`` in a process that is killed when it opens a version, as by a crash."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from jepa_runtime import cli
from jepa_runtime.commands import run, run_robot  # noqa: F401
from jepa_runtime.ota.health import serving_socket, trial_counter

# Boots are forks of a process that has imported these modules, which takes more than a second.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


class Boot:
    """One boot: ``run --robot`` in a process that is killed when it opens a version in ``deadly``.

    Args:
        root: Folder of the robot. The output is written to files next to it.
        number: Identifies the boot.
        deadly: Versions, separated by commas.
        duration_s: How long the process serves.
    """

    def __init__(self, root: Path, number: int, deadly: str, duration_s: float) -> None:
        self._stdout, self._stderr = root.parent / f"stdout-{number}", root.parent / f"stderr-{number}"
        arguments = (root, number, deadly, duration_s, self._stdout, self._stderr)
        self._process = _FORKS.Process(target=_serve, args=arguments)
        self._process.start()

    @property
    def versions(self) -> list[str]:
        """Return the versions that were opened."""
        lines = self._stdout.read_text().splitlines()
        return [line for line in lines if re.fullmatch(r"\d\.\d\.\d", line)]

    @property
    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def wait(self, within_s: float) -> int:
        """Wait until the process ends and return its exit status; kill it after ``within_s``."""
        self._process.join(within_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _serve(root: Path, number: int, deadly: str, duration_s: float, stdout: Path, stderr: Path) -> None:
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    serving_socket.boot_id = trial_counter.boot_id = lambda: f"boot-{number}"
    open_model = run.open_model

    def opens(args: Any, bundle: Any) -> Any:
        version = bundle.manifest.version
        print(version, flush=True)
        if version in deadly.split(","):
            os.kill(os.getpid(), signal.SIGKILL)
        return open_model(args, bundle)

    run.open_model = opens
    arguments = ["run", "--robot", str(root), "--source", "two_rooms", "--rate", "50"]
    sys.exit(cli.main([*arguments, "--duration", str(duration_s)]))
