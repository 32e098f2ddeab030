"""Downloads from a server or a folder, with limits; authenticity is checked by the caller.

Faults of a source, and what happens:

1. It is unreachable, fails, closes the connection or stays silent: :class:`FetchError`; received bytes stay,
   and the next attempt resumes.
2. It is too slow, in its headers or its body: the same. Sending a byte now and then does not help.
3. It sends more than requested: only the requested bytes are read.
4. It sends other content: the hash of the file on disk decides. If part of the file was present before, it is
   fetched again from the start, because a power cut may be the reason; then :class:`TrustError`.
5. It redirects to another server, or from https to http: :class:`FetchError`.
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
# A connection that delivered this much is retried at once; otherwise the update waits before the next
# attempt.
_PROGRESS_BYTES = 1 << 20


class FetchBudget:
    """The time, from the first download on, and the bytes that several downloads may take together."""

    def __init__(self, limits: Limits, clock: Clock = time) -> None:
        self.limits, self.clock = limits, clock
        self._ends: float | None = None
        self._bytes = 0

    def left(self, name: str) -> int:
        """Return the number of bytes that may be read at once.

        Args:
            name: The file, for messages.

        Raises:
            TransferLimitError: The budget is used up.
        """
        limits, now = self.limits, self.clock.monotonic()
        if self._ends is None:
            self._ends = now + limits.total_s
        if now > self._ends:
            raise TransferLimitError(
                f"{name}: download timed out after {limits.total_s:g} s; the next update resumes it: raise "
                "fetch.total_s if that is too short",
                code="transfer.time_limit",
            )
        if limits.max_bytes is None:
            return _CHUNK_BYTES
        if self._bytes >= limits.max_bytes:
            raise TransferLimitError(
                f"{name}: the limit of {limits.max_bytes} bytes per update (fetch.max_bytes) is reached; the "
                "next update resumes the download",
                code="transfer.byte_limit",
            )
        return min(_CHUNK_BYTES, limits.max_bytes - self._bytes)

    def take(self, n: int) -> None:
        """Count ``n`` received bytes."""
        self._bytes += n


class _Meter:
    """Enforces the limits of one download.

    Args:
        name: The file, for messages.
        budget: The budget of all downloads.
    """

    def __init__(self, name: str, budget: FetchBudget) -> None:
        self._name, self._budget = name, budget
        self._limits, self._clock = budget.limits, budget.clock
        self._window = self._clock.monotonic()
        self._in_window = 0

    def allowed(self, wanted: int) -> int:
        """Return the number of bytes to read next, at most ``wanted``.

        Raises:
            TransferLimitError: The budget is used up.
        """
        most = self._budget.left(self._name)
        if self._limits.max_bytes_s is not None:
            most = min(most, max(1, int(self._limits.max_bytes_s / 10)))
        return min(most, wanted)

    def count(self, n: int) -> None:
        """Count ``n`` received bytes, and wait if they came faster than allowed.

        Raises:
            FetchError: They came too slowly.
        """
        self._budget.take(n)
        self._in_window += n
        if self._limits.max_bytes_s is not None:
            earliest = self._window + self._in_window / self._limits.max_bytes_s
            self._clock.sleep(max(0.0, earliest - self._clock.monotonic()))
        now = self._clock.monotonic()
        if now - self._window >= _WINDOW_S:
            rate = self._in_window / (now - self._window)
            if rate < self._limits.min_bytes_s:
                raise FetchError(
                    f"{self._name}: {rate:.0f} bytes per second is below the minimum of "
                    f"{self._limits.min_bytes_s:g} (fetch.min_bytes_s): try again with a better connection",
                    code="transfer.too_slow",
                )
            self._window, self._in_window = now, 0


def fetch_bytes(source: Source, path: str, *, max_bytes: int, limits: Limits, clock: Clock = time) -> bytes:
    """Return the content of a small file.

    Raises:
        TrustError: It is longer than ``max_bytes``.
        FetchError: It cannot be downloaded now.
    """
    # A small file restarts after an error, so its bytes do not count towards those of the update.
    # It restarts after an error: its bytes do not count against those of the update.
    meter = _Meter(path, FetchBudget(replace(limits, max_bytes=None), clock))
    content = bytearray()
    try:
        with source.open(path) as body:
            while data := body.read(meter.allowed(max_bytes + 1 - len(content))):
                content += data
                if len(content) > max_bytes:
                    raise TrustError(
                        f"{path}: longer than the {max_bytes} bytes allowed for it", code="trust.too_long"
                    )
                meter.count(len(data))
    except TransferLimitError as error:
        raise FetchError(
            f"{path}: download timed out after {limits.total_s:g} s: try again", code="transfer.time_limit"
        ) from error
    return bytes(content)


def fetch_file(
    source: Source,
    path: str,
    part: Path,
    *,
    length: int,
    verify: Callable[[BufferedReader], bool],
    budget: FetchBudget,
    progress: Progress | None = None,
) -> None:
    """Download a large file into ``part``, resuming a partial download.

    Args:
        source: Where the file comes from.
        path: The file's path in the source.
        part: The partial file; complete once this returns.
        length: Length of the content, in bytes.
        verify: Returns whether a content has the signed hash.
        budget: The budget of all downloads, and their limits.
        progress: Called with the number of bytes present, and the total.

    Raises:
        TrustError: The content is another one; ``part`` was removed.
        TransferLimitError: The budget is used up; ``part`` stays.
        FetchError: The download failed; ``part`` stays for the next attempt.
        StorageError: The disk is full or fails; ``part`` was removed, unless the disk was merely too full to
            continue.
    """
    with PartialFile(part, length, free_bytes=budget.limits.free_bytes) as file:
        meter = _Meter(path, budget)

        def fetch_and_verify() -> bool:
            _fill(file, source, path, length, meter, progress)
            with file.content() as content:
                return verify(content)

        resumed = file.offset > 0 and not file.refetched
        if fetch_and_verify():
            return
        if resumed:
            file.rewind(refetched=True)
            if fetch_and_verify():
                return
        file.remove()
    raise TrustError(
        f"{path}: the content has another hash than the signed one: publish it again, or check what changes "
        "it in transit",
        code="trust.hash_mismatch",
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
                        raise FetchError(
                            f"{path}: ended after {file.offset} of {length} bytes: try again",
                            code="transfer.truncated",
                        )
                    file.write(data)
                    if progress is not None:
                        progress(file.offset, length)
                    meter.count(len(data))
        except FetchError:
            file.sync()
            if file.offset - before < _PROGRESS_BYTES:
                raise
    file.finish()
