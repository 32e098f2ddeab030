"""Bytes from a server or a folder, with limits; whether they are the right ones is decided elsewhere.

What a source can do wrong, and what then happens:

1. It cannot be reached, fails, cuts the connection or says nothing: :class:`FetchError`, what has come stays,
   and the next attempt goes on from there.
2. It is too slow, in its headers as well as in its body: the same. A byte now and then does not help it.
3. It sends more than asked for: only what was asked for is taken.
4. It sends something else: the hash decides, of what is on the disk. If part of that was there before, all of
   it is fetched once more, because a power cut may have been the reason; then :class:`TrustError`.
5. It sends somebody on to another server, or from https to http: :class:`FetchError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from jepa_runtime.errors import FetchError, TransferLimitError, TrustError
from jepa_runtime.ota.storage.partial_file import PartialFile
from jepa_runtime.ota.transport.repository_sources import Clock, Limits, Source

Progress = Callable[[int, int], None]
_WINDOW_S = 30.0
_CHUNK_BYTES = 1 << 18
# A connection that brought so much is worth another one at once; with less, one waits for better times.
_WORTH_BYTES = 1 << 20


class FetchBudget:
    """The time, counted from the first fetch on, and the bytes that several fetches may take together."""

    def __init__(self, limits: Limits, clock: Clock = time) -> None:
        self.limits, self.clock = limits, clock
        self._ends: float | None = None
        self._bytes = 0

    def left(self, name: str) -> int:
        """How many bytes may be read at once; ``name``: of what is fetched, for messages.

        Raises:
            TransferLimitError: none any more.
        """
        limits, now = self.limits, self.clock.monotonic()
        if self._ends is None:
            self._ends = now + limits.total_s
        if now > self._ends:
            raise TransferLimitError(
                f"{name}: not there after {limits.total_s:g} s: the next update goes on from there; allow it "
                "more time (total_s) if that is too little"
            )
        if limits.max_bytes is None:
            return _CHUNK_BYTES
        if self._bytes >= limits.max_bytes:
            raise TransferLimitError(
                f"{name}: the {limits.max_bytes} bytes of one update are used up: the next one goes on from "
                "there"
            )
        return min(_CHUNK_BYTES, limits.max_bytes - self._bytes)

    def take(self, n: int) -> None:
        """Take note of ``n`` bytes."""
        self._bytes += n


class _Meter:
    """Keeps one fetch within its limits.

    Args:
        name: of what is fetched, for messages.
        allowance: of which it takes.
    """

    def __init__(self, name: str, allowance: FetchBudget) -> None:
        self._name, self._allowance = name, allowance
        self._limits, self._clock = allowance.limits, allowance.clock
        self._window = self._clock.monotonic()
        self._in_window = 0

    def allowed(self, wanted: int) -> int:
        """How many bytes to read next, at most ``wanted``.

        Raises:
            TransferLimitError: none any more.
        """
        most = self._allowance.left(self._name)
        if self._limits.max_bytes_s is not None:
            most = min(most, max(1, int(self._limits.max_bytes_s / 10)))
        return min(most, wanted)

    def count(self, n: int) -> None:
        """Take note of ``n`` bytes that came; wait if they came too fast.

        Raises:
            FetchError: they came too slowly.
        """
        self._allowance.take(n)
        self._in_window += n
        if self._limits.max_bytes_s is not None:
            due = self._window + self._in_window / self._limits.max_bytes_s
            self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        now = self._clock.monotonic()
        if now - self._window >= _WINDOW_S:
            rate = self._in_window / (now - self._window)
            if rate < self._limits.min_bytes_s:
                raise FetchError(
                    f"{self._name}: came with {rate:.0f} bytes per second, less than "
                    f"{self._limits.min_bytes_s:g}: try again with a better connection"
                )
            self._window, self._in_window = now, 0


def fetch_bytes(source: Source, path: str, *, max_bytes: int, limits: Limits, clock: Clock = time) -> bytes:
    """A small file.

    Raises:
        TrustError: it is longer than ``max_bytes``.
        FetchError: it cannot be fetched now.
    """
    # It begins anew after an error: its bytes do not count against those of the update.
    meter = _Meter(path, FetchBudget(replace(limits, max_bytes=None), clock))
    content = bytearray()
    try:
        with source.open(path) as body:
            while data := body.read(meter.allowed(max_bytes + 1 - len(content))):
                content += data
                if len(content) > max_bytes:
                    raise TrustError(f"{path}: longer than the {max_bytes} bytes that it may have")
                meter.count(len(data))
    except TransferLimitError as error:
        raise FetchError(f"{path}: not there after {limits.total_s:g} s: try again") from error
    return bytes(content)


def fetch_file(
    source: Source,
    path: str,
    part: Path,
    *,
    length: int,
    is_right: Callable[[BufferedReader], bool],
    allowance: FetchBudget,
    progress: Progress | None = None,
) -> None:
    """A large file, into ``part``; what is there of it already is not fetched again.

    Args:
        part: a file to make or to go on with; it has the content and nothing else once this returns.
        length: of the content, in bytes.
        is_right: says whether a content is the one that was signed.
        allowance: of which it takes, and its limits.
        progress: is told how many bytes are there, and of how many.

    Raises:
        TrustError: the content is another one; ``part`` was removed.
        TransferLimitError: the allowance is used up; ``part`` stays.
        FetchError: it cannot be fetched now; ``part`` stays for the next attempt.
        StorageError: the disk is full or fails; ``part`` was removed unless it was only too full to go on.
    """
    with PartialFile(part, length, free_bytes=allowance.limits.free_bytes) as file:
        meter = _Meter(path, allowance)

        def comes_right() -> bool:
            _fill(file, source, path, length, meter, progress)
            with file.content() as content:
                return is_right(content)

        went_on = file.offset > 0 and not file.anew
        if comes_right():
            return
        if went_on:
            file.rewind(anew=True)
            if comes_right():
                return
        file.remove()
    raise TrustError(
        f"{path}: what came is not what was signed (its hash is another): publish it again, or find who "
        "changes it on its way"
    )


def _fill(
    file: PartialFile, source: Source, path: str, length: int, meter: _Meter, progress: Progress | None
) -> None:
    while file.offset < length:
        before = file.offset
        try:
            meter.allowed(1)
            with source.open(path, before) as body:
                if body.offset != before:
                    file.rewind()
                while file.offset < length:
                    data = body.read(meter.allowed(length - file.offset))
                    if not data:
                        raise FetchError(f"{path}: ended after {file.offset} of {length} bytes: try again")
                    file.write(data)
                    if progress is not None:
                        progress(file.offset, length)
                    meter.count(len(data))
        except FetchError:
            file.keep()
            if file.offset - before < _WORTH_BYTES:
                raise
    file.finish()
