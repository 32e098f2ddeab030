"""A file from the one before it.

Training on changes the values of weights, seldom where they lie. So a delta says what to add, modulo 256, to
each byte of the base to get the byte at the same offset of the target: mostly zeros and small numbers, which
compress well. What the target has beyond the end of the base stands as it is.

======  =====  =========================================================
offset  bytes  (integers are little endian)
======  =====  =========================================================
0       7      ``JEPADIF``
7       1      version of this format, 1
8       8      length of the base
16      8      length of the target
24             one zstd frame, as long as the target when decompressed
======  =====  =========================================================

A delta saves traffic and is never trusted: what it makes counts only if it has the hash that was signed for
the file itself. Whoever cannot use one fetches the whole file.
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
# zstd packs up to 128 KiB into 4 bytes, and its decompressor returns all that its input holds: this many
# bytes at a time become 8 MiB at most. Its own limit on output is ignored when a frame says how long it is.
_SLICE_BYTES = 256


def apply(base: Path, delta: Path, out: Path, *, sha256: str, length: int) -> None:
    """Make a file from its base and a delta, within some 50 MB of memory whatever the delta holds.

    Args:
        base: the file that the delta starts from.
        delta: see the head of this module.
        out: what is made, on the disk when this returns; replaced if it is there.
        sha256: of the file to be made, from signed metadata.
        length: of the file to be made, in bytes.

    Raises:
        UpdateError: the delta is damaged, or does not make that file from this base; nothing is left at
            ``out``.
        StorageError: a file cannot be read or written; nothing is left at ``out``.
    """
    try:
        with base.open("rb") as old, delta.open("rb") as change, out.open("wb") as new:
            _check_header(change, old, delta, base, length)
            _add(change, old, new, delta, length)
        atomic_files.sync_file(out)
        found = file_sha256(out)
        if found != sha256:
            raise _useless(delta, f"makes a file of SHA-256 {found} from {base}, not {sha256}")
    except OSError as error:
        atomic_files.remove_quietly(out)
        raise StorageError(f"{error.filename or out}: cannot be read or written: {error.strerror}") from error
    except BaseException:
        atomic_files.remove_quietly(out)
        raise


def _check_header(change: BinaryIO, old: BinaryIO, delta: Path, base: Path, length: int) -> None:
    header = change.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise _useless(delta, "is no delta")
    _, version, base_length, target_length = HEADER.unpack(header)
    if version != VERSION:
        raise _useless(delta, f"has version {version} of the format, this jepa-edge reads {VERSION}")
    if target_length != length:
        raise _useless(delta, f"makes {target_length} bytes, the file is to have {length}")
    there = os.fstat(old.fileno()).st_size
    if base_length != there:
        raise _useless(delta, f"starts from {base_length} bytes, {base} has {there}")


def _add(change: BinaryIO, old: BinaryIO, new: BinaryIO, delta: Path, length: int) -> None:
    frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
    made = 0
    while not frame.eof:
        packed = change.read(_SLICE_BYTES)
        if not packed:
            raise _useless(delta, "ends too early")
        try:
            added = np.frombuffer(frame.decompress(packed), np.uint8)
        except zstandard.ZstdError as error:
            raise _useless(delta, f"is damaged ({error})") from error
        made += len(added)
        if made > length:
            raise _useless(delta, f"makes more than {length} bytes")
        start = np.frombuffer(old.read(len(added)), np.uint8)
        new.write((start + added[: len(start)]).tobytes())
        new.write(added[len(start) :].tobytes())
    if made < length:
        raise _useless(delta, f"makes {made} bytes, the file is to have {length}")
    if frame.unused_data or change.read(1):
        raise _useless(delta, "has more after its end")


def _useless(delta: Path, why: str) -> UpdateError:
    return UpdateError(f"{delta}: {why}: fetch the whole file instead")
