"""All spellings of a unit are equal."""

from __future__ import annotations

import pytest

from jepa_runtime.bundle.manifest import ActionSpec
from jepa_runtime.sources.message_fields import action_mismatch
from jepa_runtime.util.units import normalize_unit


@pytest.mark.parametrize(
    "spellings",
    [
        ["m/s", "meters/second", "metres per second", "m s^-1", "m·s⁻¹", "m*s**-1", " m / sec"],
        ["rad/s", "rad s^-1", "radians/second"],
        ["m/s^2", "m/s/s", "m s-2", "m s⁻²"],
        ["N m", "N*m", "Nm", "newton meters"],
    ],
)
def test_unit_spellings_are_equal(spellings: list[str]) -> None:
    assert len({normalize_unit(unit) for unit in spellings}) == 1


def test_different_units_are_not_equal() -> None:
    units = [
        "m",
        "s",
        "ms",
        "m/s",
        "mm/s",
        "s/m",
        "rad/s",
        "deg/s",
        "N m",
        "N/m",
        "m/s^2",
        "",
        "1",
        "%",
        "-1 … 1",
    ]
    assert len({normalize_unit(unit) for unit in units}) == len(units)


@pytest.mark.parametrize(("unit", "fits"), [("radians/second", True), ("rad s^-1", True), ("deg/s", False)])
def test_commands_match_a_model_with_another_unit_spelling(unit: str, fits: bool) -> None:
    action = ActionSpec(names=("w",), units=(unit,), low=(-1.0,), high=(1.0,), max_norm=None)
    assert (action_mismatch(["w"], ["rad/s or m/s"], action) is None) == fits
