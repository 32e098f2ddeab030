"""The process that serves the model on this machine without ROS, and how updates reach it: over a socket in
the folder of the robot, on which it reports how it does.

A process that ends as it should removes the socket, so one that nobody listens on says that somebody served
and died; a file next to it says with what, and in which run of the machine. The file of the lock is never
removed: it says that somebody serves from this folder at times. All of them are in the folder ``serving``,
which may be a link to a folder of another account: the serving process needs to write nowhere else.
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
_GONE_S, _ANSWER_S, _OPEN_S, _PASSING_S, _SLICE_S = 20.0, 10.0, 600.0, 30.0, 0.1
_STARTING_S = 300.0
_MAX_BYTES, _MAX_TEXT, _MOST_DEATHS = 1 << 16, 1000, 2


@dataclass(frozen=True, kw_only=True)
class ServingReport:
    """What the serving process says of itself.

    Attributes:
        token: of its process, which no other ever has.
        blamed: the SHA-256 of the manifest of what the process before it served, or was opening, when it
            died; empty: it did not.
        serves: the SHA-256 of the manifest of what serves; empty: as yet nothing.
        failure, idle: see :class:`~jepa_runtime.ota.health.serving_interface.Health`.
        refused: the SHA-256 of the manifest of what the link ``current`` named and could not be served; else
            empty.
        reason: why it could not.
        passing: whether another attempt may succeed.
    """

    # Whoever asks may be of an earlier version: after an upgrade, not all start again at the same moment.
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
    """The serving process is not there."""


class _DiedError(_GoneError):
    """It left its socket."""


class LocalServing:
    """The process that serves from ``root``, if there is one
    (:class:`jepa_runtime.ota.health.serving_interface.Serving`).

    As long as there is a file ``hold`` in ``root``, no update switches to another model.

    Args:
        alive: is called every moment while something is waited for.
        gone_s: whoever is not there for so long is not about to come back.
    """

    def __init__(
        self, root: Path, alive: Callable[[], None] = lambda: None, *, gone_s: float = _GONE_S
    ) -> None:
        self._root, self._alive, self._gone_s = root, alive, gone_s
        self._awaited = self._died = False
        self._token = ""

    def swap(self, folder: Path) -> None:
        """See :meth:`jepa_runtime.ota.health.serving_interface.Serving.swap`.

        Where nobody serves, nor has since this was made, nobody need be told: whoever starts later serves
        what the link ``current`` names. On the way back the same holds if the serving process is gone.
        """
        wanted, began, deaths = folder.parent.name, time.monotonic(), 0
        while True:
            try:
                told = self._told()
            except _GoneError as error:
                died, is_good = isinstance(error, _DiedError), wanted == SlotStore(self._root).good()
                if died and not is_good and _blamed(self._root) == wanted:
                    raise ReleaseRejectedError(
                        f"{self._root}: the serving process died opening {folder}"
                    ) from error
                if not (died or is_good):
                    raise
                # Whoever comes is not the one that was known.
                self._token = ""
                return
            if told is None:
                return
            deaths += self._is_new(told) and told.blamed == wanted
            self._token = told.token
            if told.serves == wanted:
                self._died = False
                return
            refused, waited_s = told.refused == wanted, time.monotonic() - began
            if refused and not told.passing:
                raise ReleaseRejectedError(
                    f"{self._root}: the serving process refuses {folder}: {told.reason}"
                )
            if deaths >= _MOST_DEATHS:
                raise ReleaseRejectedError(
                    f"{self._root}: the serving process died {deaths} times opening {folder}"
                )
            if waited_s >= (_PASSING_S if refused else _OPEN_S):
                why = told.reason if refused else f"not within {_OPEN_S:g} s"
                raise UpdateError(f"{self._root}: the serving process does not open {folder}: {why}")
            self._wait()

    def health(self) -> Health:
        """See :meth:`jepa_runtime.ota.health.serving_interface.Serving.health`."""
        free = not (self._root / HOLD).exists()
        try:
            told = self._told()
        except _GoneError as error:
            # What this process never saw may have died for any reason. The candidate may be the cure.
            died = isinstance(error, _DiedError)
            failure = str(error) if self._token and died else ""
            return Health(serves="", failure=failure, absent=str(error), may_switch=free and died)
        if told is None:
            return Health(may_switch=free)
        self._died = self._died or (self._is_new(told) and bool(told.blamed))
        self._token = told.token
        failure, absent = told.failure, ""
        if self._died:
            failure = f"{self._root}: the serving process died, and was started again"
        if not told.serves:
            absent = f"{self._root}: the serving process opens its model"
        return Health(
            serves=told.serves,
            failure=failure,
            absent=absent,
            # One that waits for another model, because it may open none, needs an update.
            may_switch=free and bool(told.serves or told.blamed or told.refused),
            idle=told.idle,
        )

    def _is_new(self, told: ServingReport) -> bool:
        return self._token not in ("", told.token)

    def _told(self) -> ServingReport | None:
        """What the serving process says; None: nobody serves, nor has since this was made, and nobody died.

        Raises:
            _GoneError: somebody served, and is gone.
            UpdateError: it does not answer, or this account may not ask it.
        """
        path, ends = self._root / SOCKET, time.monotonic() + self._gone_s
        while True:
            there = path.exists()
            if not there and not self._token and (self._awaited or not self._may_come()):
                return None
            try:
                if there:
                    return _ask(self._root)
            except TimeoutError as error:
                raise UpdateError(f"{path}: the serving process does not answer: restart it") from error
            except PermissionError as error:
                raise UpdateError(
                    f"{path}: belongs to another account: run updates as one of its group (see the units)"
                ) from error
            except (OSError, ValidationError):
                there = path.exists()
            if time.monotonic() >= ends:
                self._awaited = True
                if there:
                    raise _DiedError(
                        f"{path}: the serving process died, or the machine stopped: start it (`jepa-runtime "
                        "run --robot`), or remove this file if nobody is to serve"
                    )
                if self._token:
                    raise _GoneError(
                        f"{self._root}: the serving process has ended: start it (`jepa-runtime run --robot`)"
                    )
            self._wait()

    def _may_come(self) -> bool:
        """Whether somebody who serves from here at times may be about to, after the start of the machine."""
        just_started = time.clock_gettime(time.CLOCK_BOOTTIME) < _STARTING_S
        return just_started and (self._root / LOCK).exists()

    def _wait(self) -> None:
        self._alive()
        time.sleep(_SLICE_S)


@dataclass
class ServerSocket:
    """Of a process that serves from ``root``: the socket on which it is asked, and what it is to say as long
    as nothing serves.

    Attributes:
        crashes: in a row with each model, the last of which ended the process before this one.
    """

    root: Path
    server: socket.socket
    nothing: ServingReport
    crashes: Mapping[str, int]

    def blame(self, sha256: str) -> None:
        """From now on, blame this model if the process dies; empty: none."""
        written, crashes = self.root / f"{MARKER}.new", self.crashes.get(sha256, 0)
        with suppress(OSError):
            written.write_text(f"{boot_id()} {sha256} {crashes}" if sha256 else "", "ascii")
            written.replace(self.root / MARKER)

    def forgive(self, sha256: str) -> None:
        """This model has served for long enough: forget earlier crashes of it."""
        if self.crashes:
            self.crashes = {}
            self.blame(sha256)


@contextmanager
def listening(root: Path) -> Iterator[ServerSocket]:
    """Serve from ``root``. The socket stays behind if the block raises.

    Raises:
        UpdateError: the folder belongs to another account.
        StorageError: another process serves already, or it cannot be made.
    """
    path = root / SOCKET
    folder_owner.require_owner(path.parent if path.parent.exists() else root)
    with atomic_files.storage_errors(path.parent, "cannot be made"), suppress(FileExistsError):
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
                # The group is that of updates, where those have an account of their own.
                os.chmod(address, 0o660)
            server.listen()
        except OSError as error:
            raise StorageError(f"{path}: cannot be made: {error.strerror or error}") from error
        yield ServerSocket(root, server, ServingReport(token=uuid.uuid4().hex, blamed=blamed), crashed)
        with suppress(OSError):
            path.unlink()


def answer(connection: socket.socket, told: ServingReport) -> None:
    """Say how it goes to whoever connected; one that has gone is no matter."""
    plain = replace(told, failure=_plain(told.failure), reason=_plain(told.reason))
    with suppress(OSError), connection:
        connection.sendall(_ADAPTER.dump_json(plain))


def _blamed(root: Path) -> str:
    """The model that killed whoever left the socket; empty: none did. A socket that a power cut left blames
    no model."""
    sha256, _ = _marked(root)
    return sha256 if (root / SOCKET).exists() else ""


def crashes(root: Path, sha256: str) -> int:
    """How often in a row, since the last start of the machine, the process that serves has crashed with a
    model, as far as it was started again since."""
    marked, times = _marked(root)
    return times if marked == sha256 else 0


def _marked(root: Path) -> tuple[str, int]:
    """What is opened or served in this run of the machine, and how often that crashed; empty: nothing."""
    with suppress(OSError, ValueError):
        boot, sha256, times = atomic_files.read_small(root / MARKER, _MAX_TEXT).decode("ascii").split()
        if boot == boot_id():
            return sha256, int(times)
    return "", 0


def _ask(root: Path) -> ServingReport:
    with _address(root) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_ANSWER_S)
        peer.connect(address)
        with peer.makefile("rb") as file:
            return _ADAPTER.validate_json(file.read(_MAX_BYTES))


@contextmanager
def _address(root: Path) -> Iterator[str]:
    """Through a descriptor of the folder: the address of a socket has 107 bytes at most, a path has more."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _plain(text: str) -> str:
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
