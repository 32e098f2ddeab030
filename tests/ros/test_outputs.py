"""From results to messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

outputs = pytest.importorskip(
    "jepa_ros.outputs", reason="the workspace is not on the paths: . scripts/env.sh"
)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=9),
        elements=st.floats(-60000, 60000, width=32),
    )
)
def test_half_rounds_as_numpy_does(values):
    converted = half(values)
    assert np.array_equal(converted, values.astype(np.float16))


def test_half_keeps_what_is_not_a_number():
    converted = half(np.array([np.nan, np.inf, -np.inf], np.float32))
    assert np.isnan(converted[0]) and list(converted[1:]) == [np.inf, -np.inf]


def test_an_opencv_without_float16_gives_the_same(monkeypatch):
    values = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    expected = half(values)

    def refuse(*_args, **_named):
        raise outputs.cv2.error("unsupported depth")

    monkeypatch.setattr(outputs.cv2, "add", refuse)
    assert np.array_equal(half(values), expected)


def half(values):
    out = np.full(values.shape, 7, np.float16)
    outputs.to_half(values, out)
    return out
