"""Helpers for the tests of downloads: files to fetch, and limits."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from jepa_runtime.ota.transport.fetch import FetchBudget, fetch_file
from jepa_runtime.ota.transport.repository_sources import Clock, Limits, Source

MIB = 1 << 20
SMALL = random.Random(1).randbytes(100_000)
LARGE = random.Random(2).randbytes(5 * MIB + 12345)
LIMITS = Limits(free_bytes=0)
# For servers that stop sending; on a busy machine others may also pause.
QUICK = Limits(read_s=0.3, free_bytes=0)


def fetch(
    source: Source, part: Path, content: bytes, name: str, limits: Limits = LIMITS, clock: Clock | None = None
) -> None:
    allowance = FetchBudget(limits) if clock is None else FetchBudget(limits, clock)
    fetch_file(source, name, part, length=len(content), verify=has_content(content), budget=allowance)


def has_content(content: bytes) -> Callable[[BufferedReader], bool]:
    return lambda file: file.read() == content
