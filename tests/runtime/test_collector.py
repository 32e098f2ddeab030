"""What a run keeps of what it measured."""

from __future__ import annotations

from dataclasses import replace

from jepa_runtime.profiling.collector import Collector
from tests.runtime.test_recording import result


def test_the_latest_samples_are_kept_and_no_more() -> None:
    collector = Collector(most=100)
    for number in range(1, 251):
        each = result()
        collector.add(replace(each, timings_ms={**each.timings_ms, "total": float(number)}))
    kept = collector.stages_ms()["total"]
    assert 90 <= len(kept) <= 100 and kept[-1] == 250 and kept[0] == 250 - len(kept) + 1
    assert len(collector.times_s) == len(kept)
