"""Argument types for numbers, with range checks."""

from __future__ import annotations

import argparse

_MAX_COUNT, _MAX_LARGE_COUNT, _MAX_DAYS, _MAX_WEIGHT = 100_000, 1_000_000_000, 36_500, 1_000


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


def _check(value: float, maximum: int, *, minimum: int = 0) -> None:
    if not minimum <= value <= maximum:
        raise argparse.ArgumentTypeError(f"must be between {minimum} and {maximum}, got {value}")
