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
    window = samples.SampleWindow(np.int64, most)
    for value in values:
        window.add(value)
    assert window.latest().tolist() == values[-most:]
    assert len(window) == min(len(values), most)
    assert window.last() == (values[-1] if values else None)


def test_samples_row_has_its_fields() -> None:
    window = samples.SampleWindow([("stamp_ns", np.int64), ("e2e_ms", np.float32)])
    window.add((1_800_000_000_000_000_001, 12.34567))
    assert window.latest()["stamp_ns"].tolist() == [1_800_000_000_000_000_001]
    assert samples.round_ms(window.latest()["e2e_ms"]) == [12.346]


def test_samples_use_constant_memory() -> None:
    window = samples.SampleWindow(np.float32, 1000)
    tracemalloc.start()
    for value in range(10_000):
        window.add(float(value))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1000
