"""The collector of a run's measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jepa_runtime.profiling.collector import Collector
from tests.runtime.recording.test_mcap_writer import result


def test_collector_retains_the_latest_samples() -> None:
    collector = Collector(max_samples=100)
    for number in range(1, 251):
        each = result()
        collector.add(replace(each, timings_ms={**each.timings_ms, "total": float(number)}))
    stored = collector.stages_ms()["total"]
    assert 90 <= len(stored) <= 100 and stored[-1] == 250 and stored[0] == 250 - len(stored) + 1
    assert len(collector.times_s) == len(stored)
    assert collector.surprise()[0].n == collector.surprise()[1] == len(stored)


def test_collector_times_start_at_the_first_result() -> None:
    moments_ns = iter([7_000_000_000, 7_000_000_000, 7_500_000_000, 9_000_000_000])
    collector = Collector(lambda: next(moments_ns))
    assert (collector.rate_hz(), collector.times_s, collector.latest) == (None, [], None)
    results = [replace(result(), sequence=number) for number in range(4)]
    for each in results[:2]:
        collector.add(each)
        assert collector.rate_hz() is None, "simultaneous results have no rate"
    for each in results[2:]:
        collector.add(each)
    assert collector.times_s == [0.0, 0.0, 0.5, 2.0]
    assert collector.rate_hz() == collector.recent()[1] == 1.5
    assert collector.latest is results[3]


def test_collector_skips_stages_without_output() -> None:
    collector = Collector()
    assert collector.stages_ms() == {"total": []} and collector.recent() == ({}, None)
    through = {"total", "wait", "preprocess", "encode"}
    collector.add(replace(result(goal=False, futures=False), surprise=None))
    assert set(collector.stages_ms()) == set(collector.recent()[0]) == through
    collector.add(result(goal=False))
    assert set(collector.stages_ms()) == through | {"predict", "surprise"}
    collector.add(replace(result(), surprise=0.25, surprising=False))
    stages = collector.stages_ms()
    assert next(iter(stages)) == "total" and {stage: len(samples) for stage, samples in stages.items()} == {
        **dict.fromkeys(through, 3), "predict": 2, "surprise": 2, "energy": 1, "relative_pose": 1,
    }  # fmt: skip
    summary, surprising = collector.surprise()
    assert (summary.n, summary.max, surprising) == (2, 0.75, 1)


def test_live_view_shows_the_last_results_only() -> None:
    moments_ns = iter(range(0, 10**12, 10**9))
    collector = Collector(lambda: next(moments_ns))
    for number in range(400):
        slow = {**result().timings_ms, "total": 900.0 if number < 100 else 5.0}
        collector.add(replace(result(), timings_ms=slow))
    stages, rate_hz = collector.recent()
    assert (stages["total"].n, stages["total"].max) == (300, 5.0)
    assert rate_hz == pytest.approx(1.0)
