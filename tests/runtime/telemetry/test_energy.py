"""Energy per frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.telemetry import measure_energy, measures_power
from jepa_runtime.telemetry.measurements import Reading
from tests.runtime.machines import Clock, orin_nano, watch


def counted(*values: float) -> list[Reading]:
    return [
        Reading(
            name="total energy",
            unit="J",
            times_s=[2.0 + 5.0 * number for number in range(len(values))],
            values=list(values),
        )
    ]


def sampled(*values: float, period_s: float = 0.5) -> list[Reading]:
    times = [2.0 + period_s * number for number in range(len(values))]
    return [Reading(name="total power", unit="W", times_s=times, values=list(values))]


def test_energy_per_frame_is_the_counter_increase_above_idle() -> None:
    result = measure_energy(counted(30, 40), counted(40, 100, 140), frames=200, duration_s=10)
    assert (result.idle_w, result.busy_w, result.absent) == (2.0, 10.0, None)
    assert result.per_frame_j == pytest.approx((100 - 2 * 10) / 200)


def test_energy_without_counters_integrates_sampled_power() -> None:
    ramp = [4.0 + number for number in range(11)]  # trapezoids are exact for a straight line: mean 9 W
    result = measure_energy(sampled(*[3.0] * 12), sampled(*ramp), frames=10, duration_s=5)
    assert result.busy_w == pytest.approx(9.0)
    assert result.per_frame_j == pytest.approx((9 - 3) * 5 / 10)


def test_energy_with_ten_samples_over_a_second_is_computed() -> None:
    idle, busy = (sampled(*[watts] * 10, period_s=1 / 9) for watts in (3.0, 5.0))
    assert measure_energy(idle, busy, frames=1, duration_s=1).per_frame_j == pytest.approx(2)


def test_measures_power_with_readable_counters_or_monitors_is_true() -> None:
    denied = Reading(name="total energy", unit="J", absent="denied")
    load = Reading(name="cpu busy", unit="%", times_s=[0.0], values=[50.0])
    assert measures_power([load, *counted(0)]) and measures_power([denied, *sampled(1.0)])
    assert not measures_power([]) and not measures_power([load, denied])


def test_energy_prefers_counters_to_sampled_power() -> None:
    result = measure_energy(counted(0, 5) + sampled(*[99.0] * 20), counted(0, 50), frames=10, duration_s=5)
    assert result.idle_w == 1.0


@pytest.mark.parametrize(
    ("idle", "busy", "frames", "reason"),
    [
        ([], counted(0, 10), 5, "while idle: the machine has no power sensor"),
        (counted(0, 10), [Reading(name="total energy", unit="J", absent="denied")], 5, "while busy: denied"),
        (counted(0, 10), counted(0, 20), 0, "no frame was processed"),
        (counted(0, 10), counted(0, 10), 5, "the run drew no more power than the idle machine: 2 W and 2 W"),
        (
            counted(0),
            counted(0, 10),
            5,
            "while idle: total energy covers only 0 s, at least 1 s are required",
        ),
        (
            sampled(*[1.0] * 9),
            sampled(*[2.0] * 20),
            5,
            "while idle: total power has only 9 samples, at least 10 are required",
        ),
    ],
)
def test_energy_that_cannot_be_computed_is_absent_with_the_reason(
    idle: list[Reading], busy: list[Reading], frames: int, reason: str
) -> None:
    result = measure_energy(idle, busy, frames=frames, duration_s=10)
    assert result.per_frame_j is None
    assert result.absent == reason


def test_energy_on_orin_uses_its_power_monitor(tmp_path: Path) -> None:
    tree, clock = orin_nano(tmp_path), Clock()

    def phase(milliamperes: int) -> list[Reading]:
        tree.write({"sys/class/hwmon/hwmon1/curr1_input": milliamperes})
        with watch(tree, clock) as monitor:
            for _ in range(20):
                clock.now += 0.5
                monitor.sample()
        return monitor.readings()

    result = measure_energy(phase(1000), phase(3000), frames=300, duration_s=10)
    assert (result.idle_w, result.busy_w) == (pytest.approx(5), pytest.approx(15))
    assert result.per_frame_j == pytest.approx(10 * 10 / 300)
