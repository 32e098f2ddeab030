"""Create deltas between files, in the format of :mod:`jepa_runtime.ota.transport.deltas`."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import zstandard

from jepa_runtime.ota.transport import deltas

LEVEL = 3
WORTH = 0.6


def make(base: bytes, target: bytes) -> bytes:
    """Return the delta from ``base`` to ``target``."""
    difference = np.frombuffer(target, np.uint8).copy()
    common = min(len(base), len(target))
    difference[:common] -= np.frombuffer(base, np.uint8)[:common]
    frame = zstandard.ZstdCompressor(level=LEVEL).compress(difference.tobytes())
    return deltas.HEADER.pack(deltas.MAGIC, deltas.VERSION, len(base), len(target)) + frame


def worth_it(delta: bytes, target: bytes) -> bool:
    """Return whether a delta is smaller than :data:`WORTH` times the compressed file."""
    return len(delta) < WORTH * len(zstandard.ZstdCompressor(level=LEVEL).compress(target))


def prove(base: bytes, delta: bytes, target: bytes) -> None:
    """Check that the robot's reader reconstructs ``target`` from ``base`` and ``delta``.

    Raises:
        UpdateError: It does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        old, change, out = (Path(folder, name) for name in ("base", "delta", "out"))
        old.write_bytes(base)
        change.write_bytes(delta)
        deltas.apply(old, change, out, sha256=hashlib.sha256(target).hexdigest(), length=len(target))
