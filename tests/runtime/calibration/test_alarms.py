"""Alarms: each begins and ends once, and false ones are no more frequent than stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.calibration import Alarm, Alarms, Score, block_maxima
from jepa_runtime.errors import JepaRuntimeError
from tests.errors import code

BLOCK, STEP_S, EVERY_S = 4, 0.2, 60.0
NORMAL = np.random.default_rng(0).exponential(size=40_000)


def make(every_s: float = EVERY_S) -> Alarms:
    return Alarms(block_maxima(NORMAL, BLOCK), block=BLOCK, step_s=STEP_S, false_alarm_every_s=every_s)


def watched(alarms: Alarms, scores: list[float | None], first: int = 0) -> list[Alarm]:
    return [
        alarm
        for step, value in enumerate(scores, start=first)
        for alarm in alarms.update(step, None if value is None else Score(value, 2))
    ]


def test_alarm_is_reported_at_its_start_and_end() -> None:
    begun, ended = watched(make(), [0.1] * 5 + [90.0, 99.0, 95.0] + [0.1] * 10)
    assert (begun.kind, begun.end_ns, begun.event.start_ns, begun.event.score) == ("surprise", None, 5, 90.0)
    assert (ended.end_ns, ended.event.start_ns, ended.event.peak_ns, ended.event.score) == (11, 5, 6, 99.0)
    assert begun.false_alarm_every_s == EVERY_S and begun.threshold.value < 90
    assert begun.threshold.every == EVERY_S / STEP_S


def test_lasting_alarm_is_reported_once_and_ends_well_after_its_cause() -> None:
    alarms = make()
    often = alarms._changes.threshold.value
    # Without data to compare with, nothing shows the end.
    raised, usual = [often * 1.01] * 100 * BLOCK + [None] * 50 * BLOCK, [often / 2] * 45 * BLOCK
    begun, ended = [alarm for alarm in watched(alarms, raised + usual) if alarm.kind == "change"]
    assert begun.end_ns is None and begun.event.start_ns < len(raised)
    # The change appears in every few pairs of blocks, and ends twenty pairs after its last appearance.
    assert ended.end_ns is not None and 10 < (ended.end_ns - len(raised)) / (2 * BLOCK) <= 20
    assert begun.threshold.every == 10 * BLOCK
    assert ended.event.start_ns == begun.event.start_ns


def test_false_alarms_are_no_more_frequent_than_stated() -> None:
    alarms = make()
    scores = np.random.default_rng(1).exponential(size=200_000).tolist()
    result = watched(alarms, scores)
    for kind in ("surprise", "change"):
        begun = sum(alarm.kind == kind and alarm.end_ns is None for alarm in result)
        assert begun <= len(scores) * STEP_S / EVERY_S, kind


def test_close_ends_an_active_alarm() -> None:
    alarms = make()
    watched(alarms, [90.0] * 20 * BLOCK)
    assert [(alarm.kind, alarm.end_ns) for alarm in alarms.close(100)] == [("surprise", 100), ("change", 100)]
    assert alarms.close(101) == []


@given(st.lists(st.none() | st.floats(0, 100), max_size=400), st.integers(1, 50))
def test_alarm_ends_before_the_next_of_its_kind(scores: list[float | None], close_every: int) -> None:
    alarms, going_on = make(), set()
    for step in range(0, len(scores), close_every):
        result = watched(alarms, scores[step : step + close_every], step)
        for alarm in [*result, *alarms.close(step + close_every)]:
            assert (alarm.kind in going_on) is (alarm.end_ns is not None)
            going_on ^= {alarm.kind}
        assert not going_on


def test_alarm_rate_too_low_for_the_normal_data_is_rejected() -> None:
    with pytest.raises(JepaRuntimeError, check=code("calibration.too_few_scores")):
        make(every_s=1e6)


@pytest.mark.parametrize("every_s", [STEP_S / 2, BLOCK * STEP_S, 2 * BLOCK * STEP_S - STEP_S])
def test_alarm_rate_above_what_blocks_resolve_is_accepted(every_s: float) -> None:
    alarms = make(every_s)
    result = watched(alarms, np.random.default_rng(1).exponential(size=20_000).tolist())
    for kind in ("surprise", "change"):
        begun = sum(alarm.kind == kind and alarm.end_ns is None for alarm in result)
        assert 0 < begun <= 20_000 / (2 * BLOCK), kind
    assert result[0].false_alarm_every_s == every_s
