"""Processes of the demos: started with a log each, monitored, and stopped by SIGINT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_prefix
from jepa_ros.profiler.processes import choose_domain

STOP_TIMEOUT_S = 10.0


class DemoError(Exception):
    """The demo cannot run; the message states why and what to do."""


@dataclass
class Processes:
    """Manage the nodes of one graph, each with its output in ``log_dir/NAME.log``."""

    log_dir: Path
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str], *, show: bool = False) -> None:
        """Start ``command``; with ``show`` its output goes to the terminal and only errors to the log."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with (self.log_dir / f"{name}.log").open("wb") as log:
            # In its own session: Ctrl-C in the terminal reaches only this process, which stops the nodes in
            # order.
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=None if show else log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, name: str, timeout_s: float) -> None:
        """Wait until ``name`` has exited by itself.

        Raises:
            DemoError: It failed, another process exited before it, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while self.running[name].poll() is None:
            self.check(except_for=name)
            if time.monotonic() > deadline:
                raise DemoError(f"{name} was still running after {timeout_s:.0f} s{self._excerpt(name)}")
            time.sleep(0.05)
        if self.running[name].returncode != 0:
            raise DemoError(
                f"{name} failed with exit code {self.running[name].returncode}{self._excerpt(name)}"
            )

    def check(self, *, except_for: str = "") -> None:
        """Check that all processes run.

        Args:
            except_for: Process that may have exited.

        Raises:
            DemoError: A process has exited; the message contains its name and the end of its log.
        """
        for name, process in self.running.items():
            if name != except_for and process.poll() is not None:
                raise DemoError(
                    f"{name} exited early with exit code {process.returncode}{self._excerpt(name)}"
                )

    def stop(self) -> list[str]:
        """Stop all processes by SIGINT, and kill those that do not stop; return an error for each failure."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        faults = [self._await_exit(name, process) for name, process in self.running.items()]
        self.running.clear()
        return [fault for fault in faults if fault]

    def _await_exit(self, name: str, process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            fault = f"{name} did not stop within {STOP_TIMEOUT_S:.0f} s of SIGINT and was killed"
            return fault + self._excerpt(name)
        return f"{name} exited with exit code {code}{self._excerpt(name)}" if code else ""

    def _excerpt(self, name: str) -> str:
        log = self.log_dir / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:] if log.exists() else []
        return "".join(f"\n  {name}: {line}" for line in lines) + f"\n  (complete log: {log})"


def node_command(node: str, parameters: Mapping[str, Any], remaps: Mapping[str, str]) -> list[str]:
    """Return the command that starts a node of jepa_ros."""
    command = [str(Path(get_package_prefix("jepa_ros")) / "lib" / "jepa_ros" / node), "--ros-args"]
    command += [part for name, target in remaps.items() for part in ("-r", f"{name}:={target}")]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value, default=str)}"]
    return command


def warnings_in(log_dir: Path) -> list[str]:
    """Return the lines of warnings and errors in the logs so far."""
    return [
        f"{path.stem}: {line}"
        for path in sorted(log_dir.glob("*.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith(("[WARN]", "[ERROR]", "[FATAL]"))
    ]


def own_graph() -> dict[str, str]:
    """Return the environment of nodes on an isolated graph."""
    environment = dict(os.environ)
    # On this machine only: the demo must not drive a real robot.
    environment["ROS_DOMAIN_ID"] = choose_domain()
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # The matrices are small, and more threads would compete with the inference thread.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = "1"
    return environment


def report(out: Path, node: str) -> dict[str, Any]:
    """Return the report that a node wrote to ``out/reports`` when it stopped.

    Raises:
        DemoError: There is no report.
    """
    path = out / "reports" / f"{node}.json"
    if not path.is_file():
        raise DemoError(f"{node} wrote no report: see {out / 'log' / node}.log")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
