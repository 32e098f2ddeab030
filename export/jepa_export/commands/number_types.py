"""Numbers for ``type=`` of an argument; those of which nothing can be made are refused at once."""

from __future__ import annotations

import argparse

_MOST, _MOST_DAYS = 100_000, 36_500


def seed(text: str) -> int:
    """What every generator of random numbers takes."""
    value = int(text)
    _check(value, (1 << 32) - 1)
    return value


def count(text: str) -> int:
    """How many; none at all may be asked for."""
    value = int(text)
    _check(value, _MOST)
    return value


def days(text: str) -> float:
    """A time from now."""
    value = float(text)
    _check(value, _MOST_DAYS)
    return value


def percent(text: str) -> float:
    """A part of the robots."""
    value = float(text)
    _check(value, 100)
    return value


def _check(value: float, most: int) -> None:
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"must be between 0 and {most}, got {value}")
