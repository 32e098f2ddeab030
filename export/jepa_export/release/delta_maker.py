"""The maker of deltas; the format and its reader are :mod:`jepa_runtime.ota.transport.deltas`."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import zstandard

from jepa_runtime.ota.transport.deltas import HEADER, MAGIC, VERSION, apply

LEVEL = 3
WORTH = 0.6


def make(base: bytes, target: bytes) -> bytes:
    """The delta that makes ``target`` from ``base``."""
    difference = np.frombuffer(target, np.uint8).copy()
    common = min(len(base), len(target))
    difference[:common] -= np.frombuffer(base, np.uint8)[:common]
    frame = zstandard.ZstdCompressor(level=LEVEL).compress(difference.tobytes())
    return HEADER.pack(MAGIC, VERSION, len(base), len(target)) + frame


def worth_it(delta: bytes, target: bytes) -> bool:
    """Whether a delta is so much smaller than the file, compressed as well, that robots are offered it."""
    return len(delta) < WORTH * len(zstandard.ZstdCompressor(level=LEVEL).compress(target))


def prove(base: bytes, delta: bytes, target: bytes) -> None:
    """Check that a robot's reader makes ``target`` of the other two.

    Raises:
        UpdateError: it does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        old, change, out = (Path(folder, name) for name in ("base", "delta", "out"))
        old.write_bytes(base)
        change.write_bytes(delta)
        apply(old, change, out, sha256=hashlib.sha256(target).hexdigest(), length=len(target))
