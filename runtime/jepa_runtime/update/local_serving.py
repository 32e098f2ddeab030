"""Whoever serves the model on this machine without ROS, and how updates reach it: over a socket in the folder
of the robot. Whoever connects is told how it goes, and what the link ``current`` names serves by then.

A process that ends as it should removes the socket. One that is left says that somebody served and died.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from jepa_runtime.bundle import MANIFEST_NAME
from jepa_runtime.errors import RefusedError, StorageError, UpdateError
from jepa_runtime.update.serving import Health

SOCKET, HOLD = "serving.sock", "hold"
_GONE_S, _ANSWER_S, _SLICE_S = 20.0, 120.0, 0.1
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Told:
    """What whoever serves says of itself.

    Attributes:
        pid: of its process.
        serves: the SHA-256 of the manifest of what serves.
        failure, idle: see :class:`~jepa_runtime.update.serving.Health`.
        refused: the SHA-256 of the manifest of what ``current`` names, if that cannot be served; else empty.
        reason: why it cannot.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    pid: int
    serves: str
    failure: str = ""
    idle: bool = False
    refused: str = ""
    reason: str = ""


_ADAPTER = TypeAdapter(Told)


class LocalServing:
    """The process that serves from ``root``, if there is one (:class:`jepa_runtime.update.serving.Serving`).

    As long as there is a file ``hold`` in ``root``, the robot cannot take another model.
    """

    def __init__(self, root: Path, *, gone_s: float = _GONE_S) -> None:
        self._root, self._gone_s = root, gone_s
        self._seen, self._pid = False, 0

    def swap(self, folder: Path) -> None:
        """See :meth:`jepa_runtime.update.serving.Serving.swap`. Where nobody is, who serves starts from the
        link ``current``; the same holds for the way back where somebody is gone."""
        try:
            told = self._told()
        except UpdateError:
            if folder.samefile(self._root / "good"):
                return
            raise
        if told is None:
            return
        self._pid = told.pid
        wanted = hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
        if told.refused == wanted:
            raise RefusedError(f"process {told.pid}, which serves, refuses {folder}: {told.reason}")
        if told.serves != wanted:
            raise UpdateError(f"process {told.pid} serves {told.serves[:12]} instead of {folder}")

    def health(self) -> Health:
        """See :meth:`jepa_runtime.update.serving.Serving.health`."""
        free = not (self._root / HOLD).exists()
        try:
            told = self._told()
        except UpdateError as error:
            return Health(serves="", failure=str(error), may_switch=False)
        if told is None:
            return Health(may_switch=free)
        before, self._pid = self._pid or told.pid, told.pid
        failure = told.failure
        if told.pid != before:
            failure = f"process {before}, which served, ended and was started again"
        return Health(serves=told.serves, failure=failure, may_switch=free, idle=told.idle)

    def _told(self) -> Told | None:
        """What it says; None: nobody ever was there.

        Raises:
            UpdateError: somebody was, and is gone or does not answer.
        """
        ends = time.monotonic() + self._gone_s
        while self._seen or (self._root / SOCKET).exists():
            try:
                told = _ask(self._root)
                self._seen = True
                return told
            except TimeoutError as error:
                raise UpdateError(
                    f"{self._root / SOCKET}: whoever serves does not answer: restart it"
                ) from error
            except (OSError, ValidationError) as error:
                if time.monotonic() >= ends:
                    raise UpdateError(
                        f"{self._root / SOCKET}: whoever served is gone ({error}): start it "
                        "(`jepa-runtime run --robot`), or remove that file if nobody is to serve"
                    ) from error
                time.sleep(_SLICE_S)
        return None


@contextmanager
def listening(root: Path) -> Iterator[socket.socket]:
    """The socket on which a process that serves from ``root`` is asked; removed at the end of the block.

    Raises:
        UpdateError: another process serves already.
        StorageError: it cannot be made.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            with _address(root) as address:
                if _answers(address):
                    raise UpdateError(f"{root}: another process serves from there: stop it first")
                with suppress(FileNotFoundError):
                    os.unlink(address)
                server.bind(address)
                os.chmod(address, 0o600)
            server.listen()
        except OSError as error:
            raise StorageError(f"{root / SOCKET}: cannot be made: {error.strerror or error}") from error
        try:
            yield server
        finally:
            with suppress(OSError):
                (root / SOCKET).unlink()


def answer(connection: socket.socket, told: Told) -> None:
    """Tell whoever connected; one that has gone is no matter."""
    with suppress(OSError), connection:
        connection.sendall(_ADAPTER.dump_json(told))


def _ask(root: Path) -> Told:
    with _address(root) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_ANSWER_S)
        peer.connect(address)
        with peer.makefile("rb") as file:
            return _ADAPTER.validate_json(file.read(_MAX_BYTES))


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, suppress(OSError):
        peer.connect(address)
        return True
    return False


@contextmanager
def _address(root: Path) -> Iterator[str]:
    """Through a descriptor of the folder: the address of a socket has 107 bytes at most, a path has more."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
