"""Child processes of a profile, each with a log, stopped in all cases."""

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
from jepa_runtime.util import python_module

_STOP_TIMEOUT_S = 10.0
_EXCERPT_LINES = 12
_SEND_IMAGES = ("camera", "two_rooms", "pictures")
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def choose_domain() -> str:
    """Return a random ROS domain other than the one in the environment, which is the robot's.

    Domains with a node on this machine are avoided if possible: each domain has the 250 UDP ports from 7400 +
    250 times its number on (DDSI-RTPS 2.5, 9.6.2).
    """
    inherited = os.environ.get("ROS_DOMAIN_ID", "").lstrip("0")
    domains = [domain for domain in range(1, 101) if str(domain) != inherited]
    taken = {(port - 7400) // 250 for port in _udp_ports()}
    free = [domain for domain in domains if domain not in taken]
    return str(random.SystemRandom().choice(free or domains))


def _udp_ports() -> list[int]:
    """Return the bound UDP ports of this machine, or none if they are unknown."""
    try:
        _, *sockets = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [int(socket.split()[1].rpartition(":")[2], 16) for socket in sockets]


def prepare_environment(*, isolated: bool) -> None:
    """Set up the transport of this process and its children, before the first node is created.

    Args:
        isolated: Whether to use a graph of its own on this machine, so that no robot receives the commands.
    """
    if isolated:
        os.environ["ROS_DOMAIN_ID"] = choose_domain()
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    try:
        profile = Path(get_package_share_directory("jepa_bringup")) / "config" / "fastdds.xml"
    except PackageNotFoundError:
        return
    for name in _PROFILES:
        os.environ.setdefault(name, str(profile))


def dds_profile() -> str:
    """Return the name and hash of the Fast DDS profile, or ``none``."""
    path = next((Path(os.environ[name]) for name in _PROFILES if os.environ.get(name)), None)
    if path is None or not path.is_file():
        return "none"
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"


def node_command(node: str, parameters: Mapping[str, Any], remaps: Mapping[str, str]) -> list[str]:
    """Return the command that starts a node of jepa_ros.

    Raises:
        ProfileError: The package is not found.
    """
    try:
        executable = Path(get_package_prefix("jepa_ros")) / "lib" / "jepa_ros" / node
    except PackageNotFoundError as error:
        raise ProfileError(
            f"the ROS 2 workspace is not in the environment: run `. scripts/env.sh` ({error})",
            code="profile.ros_not_found",
        ) from error
    command = [*_launch_environment(node), str(executable), "--ros-args"]
    for name, target in remaps.items():
        command += ["-r", f"{name}:={target}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return command


def _launch_environment(node: str) -> list[str]:
    """Return a prefix that sets the DDS profile which the launch files give to nodes without images."""
    current = Path(os.environ.get(_PROFILES[0], ""))
    if node in _SEND_IMAGES or current.name != "fastdds.xml" or current.parent.parent.name != "jepa_bringup":
        return []
    return ["env", *(f"{name}={current.with_name('fastdds_results.xml')}" for name in _PROFILES)]


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
    """Return the command that starts :mod:`jepa_ros.profiler.camera`."""
    command = [*python_module("jepa_ros.profiler.camera"), "--source", source, "--topic", topic]
    command += ["--rate", repr(rate_hz), "--frames", str(frames), "--offset-ns", str(offset_ns)]
    if size is not None:
        command += ["--size", *map(str, size)]
    if actions:
        command += ["--actions", *actions]
    return command


class Child:
    """Represent a child process in its own session, so that Ctrl-C reaches only the profiler, which stops it.

    Args:
        name: Name for messages.
        command: Command line.
        log: File for standard error, and for standard output unless ``piped``.
        piped: Whether standard input and output are pipes. Such a process ends when its input is closed,
            others on SIGINT.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, *, piped: bool = False) -> None:
        self.name = name
        self._log = log
        self._piped = piped
        self._stopped = False
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
    def exit_message(self) -> str:
        """How the process exited by itself, or an empty string."""
        code = self.process.poll()
        return "" if code is None or self._stopped else f"{self.name} ended with exit code {code}"

    def read_messages(self) -> list[Any]:
        """Return the JSON lines that have arrived since the last call."""
        if self.process.stdout is None:
            return []
        *lines, self._unread = (self._unread + (self.process.stdout.read() or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def send(self, message: Any) -> None:
        """Send a JSON line, unless the process has exited."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                os.write(self.process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def log_excerpt(self) -> str:
        """Return the last lines of the log, for an error message."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_EXCERPT_LINES:]
        return "".join(f"\n  {self.name}: {line}" for line in lines)

    def stop(self) -> None:
        """Stop the process, by SIGKILL if it does not exit in time."""
        self._stopped |= self.process.poll() is None
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
