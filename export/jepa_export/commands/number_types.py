"""Argument types for numbers, with range checks."""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple

_MAX_COUNT, _MAX_LARGE_COUNT, _MAX_DAYS, _MAX_WEIGHT = 100_000, 1_000_000_000, 36_500, 1_000
_MAX_SIDE = 4096
_MIN_SCALE, _MAX_SCALE = 0.01, 100


def seed(text: str) -> int:
    """Parse a random seed of 32 bits."""
    value = int(text)
    _check(value, (1 << 32) - 1)
    return value


def count(text: str) -> int:
    """Parse a number of items, which may be 0."""
    value = int(text)
    _check(value, _MAX_COUNT)
    return value


def positive_count(text: str) -> int:
    """Parse a number of items, at least 1."""
    value = int(text)
    _check(value, _MAX_COUNT, minimum=1)
    return value


def large_count(text: str) -> int:
    """Parse a number of training images, at least 1."""
    value = int(text)
    _check(value, _MAX_LARGE_COUNT, minimum=1)
    return value


def weight(text: str) -> float:
    """Parse the weight of a loss, which may be 0."""
    value = float(text)
    _check(value, _MAX_WEIGHT)
    return value


def scale(text: str) -> float:
    """Parse a factor, at least 0.01."""
    value = float(text)
    _check(value, _MAX_SCALE, minimum=_MIN_SCALE)
    return value


def days(text: str) -> float:
    """Parse a duration in days."""
    value = float(text)
    _check(value, _MAX_DAYS)
    return value


def percent(text: str) -> float:
    """Parse a percentage."""
    value = float(text)
    _check(value, 100)
    return value


class FrameSize(NamedTuple):
    """Height and width of a frame in pixels, written as HEIGHTxWIDTH."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def frame_size(text: str) -> FrameSize:
    """Parse the size of a frame: the side of a square in pixels, or HEIGHTxWIDTH."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number of pixels or HEIGHTxWIDTH, got {text!r}")
    size = FrameSize(int(match[1]), int(match[2] or match[1]))
    for side in size:
        _check(side, _MAX_SIDE, minimum=1)
    return size


def _check(value: float, maximum: int, *, minimum: float = 0) -> None:
    if not minimum <= value <= maximum:
        raise argparse.ArgumentTypeError(f"must be between {minimum} and {maximum}, got {value}")
