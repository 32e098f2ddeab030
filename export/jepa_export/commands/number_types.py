"""Argument types for numbers, with range checks."""

from __future__ import annotations

import argparse

_MAX_COUNT, _MAX_DAYS = 100_000, 36_500


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


def _check(value: float, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise argparse.ArgumentTypeError(f"must be between 0 and {maximum}, got {value}")
