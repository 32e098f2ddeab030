"""The serving process without ROS, and the socket over which updates query it.

The socket is in the folder of the robot. A process that ends normally removes the socket, so a socket without
a listener means that the process died. A marker file next to it records the model and the boot. The lock file
is never removed: it records that a process serves from this folder at times. All of them are in the folder
``serving``, which may be a link to a folder of another account: the serving process writes nowhere else.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from jepa_runtime.errors import ReleaseRejectedError, StorageError, UpdateError
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.health.trial_counter import FOLDER, boot_id
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util import atomic_files

SOCKET, LOCK, MARKER, HOLD = f"{FOLDER}/socket", f"{FOLDER}/lock", f"{FOLDER}/what", "hold"
_GONE_S, _REPLY_TIMEOUT_S, _OPEN_TIMEOUT_S, _RETRY_TIMEOUT_S, _POLL_S = 20.0, 10.0, 600.0, 30.0, 0.1
_STARTING_S = 300.0
_MAX_BYTES, _MAX_TEXT, _MAX_DEATHS = 1 << 16, 1000, 2


@dataclass(frozen=True, kw_only=True)
class ServingReport:
    """The report of the serving process.

    Attributes:
        token: Unique id of the process.
        blamed: SHA-256 of the manifest that the previous process served, or was opening, when it died; empty:
            it did not die.
        serves: SHA-256 of the manifest that is served; empty: none yet.
        failure: See :class:`~jepa_runtime.ota.health.serving_interface.Health`.
        idle: See :class:`~jepa_runtime.ota.health.serving_interface.Health`.
        refused: SHA-256 of the manifest that the link ``current`` named and that could not be served; empty:
            none.
        reason: Why it could not be served.
        passing: Whether another attempt may succeed.
    """

    # The other side may run an earlier version: after an upgrade, processes do not restart at the same time.
    __pydantic_config__ = ConfigDict(strict=True)

    token: str
    blamed: str = ""
    serves: str = ""
    failure: str = ""
    idle: bool = False
    refused: str = ""
    reason: str = ""
    passing: bool = False


_ADAPTER = TypeAdapter(ServingReport)


class _GoneError(UpdateError):
    """The serving process is not running."""

    code = "serving.gone"


class _DiedError(_GoneError):
    """The serving process ended without removing its socket."""

    code = "serving.died"


class LocalServing:
    """The process that serves from ``root``, if there is one.

    Implements :class:`jepa_runtime.ota.health.serving_interface.Serving`. While ``root`` contains a file
    ``hold``, no update switches the model.

    Args:
        root: The robot's folder.
        heartbeat: Called continuously during waits.
        gone_s: How long to wait for a process that does not respond before it counts as gone.
    """

    def __init__(
        self, root: Path, heartbeat: Callable[[], None] = lambda: None, *, gone_s: float = _GONE_S
    ) -> None:
        self._root, self._alive, self._gone_s = root, heartbeat, gone_s
        self._awaited = self._died = False
        self._token = ""

    def swap(self, folder: Path) -> None:
        """Wait until the serving process serves ``folder``.

        See :meth:`jepa_runtime.ota.health.serving_interface.Serving.swap`. If no process serves, nothing has
        to be done: a process that starts later serves the target of the link ``current``. During a rollback
        the same applies if the serving process is gone.
        """
        wanted, began, deaths = folder.parent.name, time.monotonic(), 0
        while True:
            try:
                report = self._request_report()
            except _GoneError as error:
                died, is_good = isinstance(error, _DiedError), wanted == SlotStore(self._root).good()
                if died and not is_good and _blamed(self._root) == wanted:
                    raise ReleaseRejectedError(
                        f"{self._root}: the serving process died while opening {folder}", code="serving.died"
                    ) from error
                if not (died or is_good):
                    raise
                # The next process will be another one.
                self._token = ""
                return
            if report is None:
                return
            deaths += self._is_new(report) and report.blamed == wanted
            self._token = report.token
            if report.serves == wanted:
                self._died = False
                return
            refused, waited_s = report.refused == wanted, time.monotonic() - began
            if refused and not report.passing:
                raise ReleaseRejectedError(
                    f"{self._root}: the serving process cannot serve {folder}: {report.reason}",
                    code="serving.cannot_open",
                )
            if deaths >= _MAX_DEATHS:
                raise ReleaseRejectedError(
                    f"{self._root}: the serving process died {deaths} times while opening {folder}",
                    code="serving.died",
                )
            if waited_s >= (_RETRY_TIMEOUT_S if refused else _OPEN_TIMEOUT_S):
                why = report.reason if refused else f"timed out after {_OPEN_TIMEOUT_S:g} s"
                raise UpdateError(
                    f"{self._root}: the serving process did not open {folder}: {why}",
                    code="serving.not_opened",
                )
            self._wait()

    def health(self) -> Health:
        """Return the health; see :meth:`jepa_runtime.ota.health.serving_interface.Serving.health`."""
        free = not (self._root / HOLD).exists()
        try:
            report = self._request_report()
        except _GoneError as error:
            # A process that this one never saw may have died for any reason; the candidate may be the remedy.
            died = isinstance(error, _DiedError)
            failure = str(error) if self._token and died else ""
            return Health(serves="", failure=failure, absent=str(error), may_switch=free and died)
        if report is None:
            return Health(may_switch=free)
        self._died = self._died or (self._is_new(report) and bool(report.blamed))
        self._token = report.token
        failure, absent = report.failure, ""
        if self._died:
            failure = f"{self._root}: the serving process died, and was restarted"
        if not report.serves:
            absent = f"{self._root}: the serving process is opening its model"
        return Health(
            serves=report.serves,
            failure=failure,
            absent=absent,
            # A process that may open no model waits for another one, and needs an update.
            may_switch=free and bool(report.serves or report.blamed or report.refused),
            idle=report.idle,
        )

    def _is_new(self, report: ServingReport) -> bool:
        return self._token not in ("", report.token)

    def _request_report(self) -> ServingReport | None:
        """Return the report of the serving process; None: none serves, none died, and none is expected.

        Raises:
            _GoneError: A process served, and is gone.
            UpdateError: The process does not respond, or belongs to another account.
        """
        path, ends = self._root / SOCKET, time.monotonic() + self._gone_s
        while True:
            there = path.exists()
            if not there and not self._token and (self._awaited or not self._may_be_starting()):
                return None
            try:
                if there:
                    return _read_report(self._root)
            except TimeoutError as error:
                raise UpdateError(
                    f"{path}: the serving process does not respond: restart it", code="serving.no_response"
                ) from error
            except PermissionError as error:
                raise UpdateError(
                    f"{path}: belongs to another account: run updates as a member of its group (see the "
                    "systemd units)",
                    code="serving.permission",
                ) from error
            except (OSError, ValidationError):
                there = path.exists()
            if time.monotonic() >= ends:
                self._awaited = True
                if there:
                    raise _DiedError(
                        f"{path}: the serving process died, or the machine stopped: start it (`jepa-runtime "
                        "run --robot`), or remove this file if no process should serve"
                    )
                if self._token:
                    raise _GoneError(
                        f"{self._root}: the serving process has ended: start it (`jepa-runtime run --robot`)"
                    )
            self._wait()

    def _may_be_starting(self) -> bool:
        """Return whether a serving process may be about to start, soon after boot."""
        just_started = time.clock_gettime(time.CLOCK_BOOTTIME) < _STARTING_S
        return just_started and (self._root / LOCK).exists()

    def _wait(self) -> None:
        self._alive()
        time.sleep(_POLL_S)


@dataclass
class ServerSocket:
    """The server side of the socket of a process that serves from ``root``.

    Attributes:
        root: The robot's folder.
        server: The listening socket.
        idle_report: The report while no model is served.
        crashes: Consecutive crashes by model, the last of which ended the previous process.
    """

    root: Path
    server: socket.socket
    idle_report: ServingReport
    crashes: Mapping[str, int]

    def blame(self, sha256: str) -> None:
        """Record the model to blame if the process dies; empty: none."""
        path, crashes = self.root / MARKER, self.crashes.get(sha256, 0)
        atomic_files.remove_unfinished(path)
        with suppress(OSError), atomic_files.replacing(path) as temporary:
            temporary.write_text(f"{boot_id()} {sha256} {crashes}" if sha256 else "", "ascii")

    def forgive(self, sha256: str) -> None:
        """Reset the crash count after a model has served for long enough."""
        if self.crashes:
            self.crashes = {}
            self.blame(sha256)


@contextmanager
def listen(root: Path) -> Iterator[ServerSocket]:
    """Create the socket of a process that serves from ``root``; the socket stays if the block raises.

    Raises:
        UpdateError: The folder belongs to another account.
        StorageError: Another process serves already, or the socket cannot be created.
    """
    path = root / SOCKET
    folder_owner.require_owner(path.parent if path.parent.exists() else root)
    with atomic_files.storage_errors(path.parent, "cannot be created"), suppress(FileExistsError):
        path.parent.mkdir()
    with (
        atomic_files.locked(root / LOCK, purpose="the serving process"),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server,
    ):
        try:
            blamed = _blamed(root)
            crashed = {blamed: crashes(root, blamed) + 1} if blamed else {}
            path.unlink(missing_ok=True)
            with _address(root) as address:
                server.bind(address)
                # Updates may run as another account of the same group.
                os.chmod(address, 0o660)
            server.listen()
        except OSError as error:
            raise StorageError(
                f"{path}: cannot create the socket: {error.strerror or error}", code="serving.no_socket"
            ) from error
        yield ServerSocket(root, server, ServingReport(token=uuid.uuid4().hex, blamed=blamed), crashed)
        with suppress(OSError):
            path.unlink()


def send_report(connection: socket.socket, report: ServingReport) -> None:
    """Send a report to a client, which may be gone already."""
    plain = replace(report, failure=_sanitized(report.failure), reason=_sanitized(report.reason))
    with suppress(OSError), connection:
        connection.sendall(_ADAPTER.dump_json(plain))


def _blamed(root: Path) -> str:
    """Return the model of the process that left the socket, or an empty string.

    A socket that a power cut left blames no model.
    """
    sha256, _ = _read_marker(root)
    return sha256 if (root / SOCKET).exists() else ""


def crashes(root: Path, sha256: str) -> int:
    """Return the number of consecutive crashes of the serving process with a model since boot.

    A crash counts once the process was started again.
    """
    marked, times = _read_marker(root)
    return times if marked == sha256 else 0


def _read_marker(root: Path) -> tuple[str, int]:
    """Return the model that is opened or served in this boot, and its number of crashes; empty: none."""
    with suppress(OSError, ValueError):
        boot, sha256, times = atomic_files.read_small(root / MARKER, _MAX_TEXT).decode("ascii").split()
        if boot == boot_id():
            return sha256, int(times)
    return "", 0


def _read_report(root: Path) -> ServingReport:
    with _address(root) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_REPLY_TIMEOUT_S)
        peer.connect(address)
        with peer.makefile("rb") as file:
            return _ADAPTER.validate_json(file.read(_MAX_BYTES))


@contextmanager
def _address(root: Path) -> Iterator[str]:
    """Yield the socket's address by a file descriptor: an address has at most 107 bytes."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _sanitized(text: str) -> str:
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
