"""Deltas: a file computed from the one before it.

Continued training changes the values of weights, and rarely their position. A delta therefore holds the
number to add, modulo 256, to each byte of the base to get the byte at the same offset of the target: mostly
zeros and small numbers, which compress well. Target bytes beyond the end of the base are stored as they are.

======  =====  =========================================================
offset  bytes  (integers are little endian)
======  =====  =========================================================
0       7      ``JEPADIF``
7       1      version of this format, 1
8       8      length of the base
16      8      length of the target
24             one zstd frame, as long as the target when decompressed
======  =====  =========================================================

A delta saves traffic and is never trusted: its result counts only if it has the hash that was signed for the
file itself. If a delta cannot be used, the whole file is downloaded.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard

from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.util import atomic_files
from jepa_runtime.util.compat import file_sha256

HEADER = struct.Struct("<7sBQQ")
MAGIC = b"JEPADIF"
VERSION = 1
_MAX_WINDOW_BYTES = 1 << 23
# zstd packs up to 128 KiB into 4 bytes, and its decompressor returns everything that its input holds: this
# many bytes at a time become at most 8 MiB. Its own output limit is ignored for frames that state their size.
_SLICE_BYTES = 256


def apply(base: Path, delta: Path, out: Path, *, sha256: str, length: int) -> None:
    """Build a file from its base and a delta, within about 50 MB of memory for any delta.

    Args:
        base: The file that the delta starts from.
        delta: The delta; see the module docstring for its format.
        out: The result, synced to disk; replaced if it exists.
        sha256: Expected hash of the result, from signed metadata.
        length: Expected length of the result, in bytes.

    Raises:
        UpdateError: The delta is damaged, or does not give that file from this base; ``out`` is removed.
        StorageError: A file cannot be read or written; ``out`` is removed.
    """
    try:
        with base.open("rb") as old, delta.open("rb") as change, out.open("wb") as new:
            _check_header(change, old, delta, base, length)
            _add(change, old, new, delta, length)
        atomic_files.sync_file(out)
        found = file_sha256(out)
        if found != sha256:
            raise _error(delta, f"the result from {base} has SHA-256 {found}, expected {sha256}")
    except OSError as error:
        atomic_files.remove_quietly(out)
        raise StorageError(
            f"{error.filename or out}: cannot be read or written: {error.strerror}", code="storage.disk_error"
        ) from error
    except BaseException:
        atomic_files.remove_quietly(out)
        raise


def _check_header(change: BinaryIO, old: BinaryIO, delta: Path, base: Path, length: int) -> None:
    header = change.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise _error(delta, "not a delta")
    _, version, base_length, target_length = HEADER.unpack(header)
    if version != VERSION:
        raise _error(delta, f"unknown format version {version}, this jepa-edge supports {VERSION}")
    if target_length != length:
        raise _error(delta, f"gives {target_length} bytes, expected {length}")
    there = os.fstat(old.fileno()).st_size
    if base_length != there:
        raise _error(delta, f"needs a base of {base_length} bytes, {base} has {there}")


def _add(change: BinaryIO, old: BinaryIO, new: BinaryIO, delta: Path, length: int) -> None:
    frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
    made = 0
    while not frame.eof:
        packed = change.read(_SLICE_BYTES)
        if not packed:
            raise _error(delta, "is truncated")
        try:
            added = np.frombuffer(frame.decompress(packed), np.uint8)
        except zstandard.ZstdError as error:
            raise _error(delta, f"is damaged ({error})") from error
        made += len(added)
        if made > length:
            raise _error(delta, f"gives more than {length} bytes")
        start = np.frombuffer(old.read(len(added)), np.uint8)
        new.write((start + added[: len(start)]).tobytes())
        new.write(added[len(start) :].tobytes())
    if made < length:
        raise _error(delta, f"gives {made} bytes, expected {length}")
    if frame.unused_data or change.read(1):
        raise _error(delta, "has trailing data")


def _error(delta: Path, why: str) -> UpdateError:
    return UpdateError(f"{delta}: {why}: download the whole file", code="transfer.unusable_delta")
