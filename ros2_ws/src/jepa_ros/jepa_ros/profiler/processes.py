"""The other processes of a profile: started with a log each, and stopped in every case."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory

from jepa_runtime.errors import ProfileError
from jepa_runtime.util.compat import python_module

_STOP_TIMEOUT_S = 10.0
_EXCERPT_LINES = 12
_SEND_IMAGES = ("camera", "two_rooms", "pictures")
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def another_domain() -> str:
    """A domain, but not the one that the shell names: that is where the robot is.

    Nor one in which a node of this machine is, as long as there are others: each domain has the 250 UDP ports
    from 7400 + 250 times its number on (DDSI-RTPS 2.5, 9.6.2).
    """
    inherited = os.environ.get("ROS_DOMAIN_ID", "").lstrip("0")
    domains = [domain for domain in range(1, 101) if str(domain) != inherited]
    taken = {(port - 7400) // 250 for port in _udp_ports()}
    free = [domain for domain in domains if domain not in taken]
    return str(random.SystemRandom().choice(free or domains))


def _udp_ports() -> list[int]:
    """Those that are bound on this machine; none where it does not tell."""
    try:
        _, *sockets = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [int(socket.split()[1].rpartition(":")[2], 16) for socket in sockets]


def prepare_environment(*, alone: bool) -> None:
    """Choose the transport of this process and those it starts; before the first node is made.

    Args:
        alone: with a graph of its own, on this machine only: what is profiled must not drive a robot.
    """
    if alone:
        os.environ["ROS_DOMAIN_ID"] = another_domain()
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    try:
        profile = Path(get_package_share_directory("jepa_bringup")) / "config" / "fastdds.xml"
    except PackageNotFoundError:
        return
    for name in _PROFILES:
        os.environ.setdefault(name, str(profile))


def dds_profile() -> str:
    """The file that Fast DDS is set up with, told by its name and content; ``none`` without one."""
    path = next((Path(os.environ[name]) for name in _PROFILES if os.environ.get(name)), None)
    if path is None or not path.is_file():
        return "none"
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"


def node_command(node: str, parameters: Mapping[str, Any], remaps: Mapping[str, str]) -> list[str]:
    """How to start a node of jepa_ros.

    Raises:
        ProfileError: the package is not on the paths.
    """
    try:
        executable = Path(get_package_prefix("jepa_ros")) / "lib" / "jepa_ros" / node
    except PackageNotFoundError as error:
        raise ProfileError(f"the ROS 2 workspace is not on the paths: . scripts/env.sh ({error})") from error
    command = [*_as_launched(node), str(executable), "--ros-args"]
    for name, target in remaps.items():
        command += ["-r", f"{name}:={target}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return command


def _as_launched(node: str) -> list[str]:
    """The profile that the launch files give to nodes which send no images, in place of our own other one."""
    ours = Path(os.environ.get(_PROFILES[0], ""))
    if node in _SEND_IMAGES or ours.name != "fastdds.xml" or ours.parent.parent.name != "jepa_bringup":
        return []
    return ["env", *(f"{name}={ours.with_name('fastdds_results.xml')}" for name in _PROFILES)]


def camera_command(
    *,
    source: str,
    topic: str,
    rate_hz: float,
    frames: int,
    offset_ns: int,
    size: tuple[int, int] | None,
    actions: Sequence[str],
) -> list[str]:
    """How to start :mod:`jepa_ros.profiler.camera`."""
    command = [*python_module("jepa_ros.profiler.camera"), "--source", source, "--topic", topic]
    command += ["--rate", repr(rate_hz), "--frames", str(frames), "--offset-ns", str(offset_ns)]
    if size is not None:
        command += ["--size", *map(str, size)]
    if actions:
        command += ["--actions", *actions]
    return command


class Child:
    """A process in a session of its own: Ctrl-C reaches the profiler alone, which stops its children.

    Args:
        name: for people.
        command: its arguments.
        log: file for what it says on standard error, and on standard output unless that is ``piped``.
        piped: its standard input and output are pipes; closing the input tells it to end, SIGINT others.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, *, piped: bool = False) -> None:
        self.name = name
        self._log = log
        self._piped = piped
        self._asked_to_stop = False
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else sink,
                stderr=sink,
                start_new_session=True,
            )
        self._unread = b""
        if self.process.stdout is not None:
            os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def end(self) -> str:
        """How it ended, if it did so by itself; empty: it runs, or it was stopped."""
        code = self.process.poll()
        return "" if code is None or self._asked_to_stop else f"{self.name} ended with exit code {code}"

    def said(self) -> list[Any]:
        """The lines of JSON that have come through the pipe since the last call."""
        if self.process.stdout is None:
            return []
        *lines, self._unread = (self._unread + (self.process.stdout.read() or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def tell(self, what: Any) -> None:
        """Send a line of JSON through the pipe; a process that has ended hears nothing."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                os.write(self.process.stdin.fileno(), json.dumps(what).encode() + b"\n")

    def excerpt(self) -> str:
        """The last lines of its log, for an error message."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_EXCERPT_LINES:]
        return "".join(f"\n  {self.name}: {line}" for line in lines)

    def stop(self) -> None:
        """End it, by force if it does not obey."""
        self._asked_to_stop |= self.process.poll() is None
        if self._piped and self.process.stdin is not None:
            self.process.stdin.close()
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
