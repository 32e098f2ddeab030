"""The window of the latest samples, in memory that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

samples = pytest.importorskip("jepa_ros.common.sample_window", reason="the workspace is not built")


@given(st.lists(st.integers(0, 2**62), max_size=30), st.integers(1, 8))
def test_latest_values_keep_their_order(values: list[int], most: int) -> None:
    kept = samples.SampleWindow(np.int64, most)
    for value in values:
        kept.add(value)
    assert kept.latest().tolist() == values[-most:]
    assert len(kept) == min(len(values), most)
    assert kept.last() == (values[-1] if values else None)


def test_samples_row_has_its_fields() -> None:
    kept = samples.SampleWindow([("stamp_ns", np.int64), ("e2e_ms", np.float32)])
    kept.add((1_800_000_000_000_000_001, 12.34567))
    assert kept.latest()["stamp_ns"].tolist() == [1_800_000_000_000_000_001]
    assert samples.round_ms(kept.latest()["e2e_ms"]) == [12.346]


def test_samples_use_constant_memory() -> None:
    kept = samples.SampleWindow(np.float32, 1000)
    tracemalloc.start()
    for value in range(10_000):
        kept.add(float(value))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1000
