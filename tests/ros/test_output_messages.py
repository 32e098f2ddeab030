"""Conversion of results to messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jepa_runtime.recording import messages
from tests.runtime.fakes import FakeModel
from tests.runtime.recording.test_mcap_writer import result

outputs = pytest.importorskip(
    "jepa_ros.world_model.output_messages", reason="the workspace is not on the paths: . scripts/env.sh"
)
to_array_field = pytest.importorskip("jepa_ros.common.conversions").to_array_field


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


def test_half_keeps_non_finite_values():
    converted = half(np.array([np.nan, np.inf, -np.inf], np.float32))
    assert np.isnan(converted[0]) and list(converted[1:]) == [np.inf, -np.inf]


def test_half_without_float16_in_opencv_gives_the_same(monkeypatch):
    values = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    expected = half(values)

    def refuse(*_args, **_named):
        raise outputs.opencv.cv2.error("unsupported depth")

    monkeypatch.setattr(outputs.opencv.cv2, "add", refuse)
    assert np.array_equal(half(values), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_futures_are_written_in_the_requested_type_at_any_count(dtype):
    writer, whole = outputs.FuturesWriter(), result()
    for count in (len(whole.futures.latents), 1):
        first = {name: getattr(whole.futures, name)[:count] for name in ("latents", "actions", "energies")}
        fewer = replace(whole, futures=replace(whole.futures, **first))
        message = writer.write(fewer, FakeModel(), dtype, goal_requested=True)
        np.testing.assert_array_equal(messages.array_of(message.latents), first["latents"].astype(dtype))
        np.testing.assert_array_equal(messages.array_of(message.energies), first["energies"])
        assert message.goal_requested


def test_latents_of_futures_are_written_into_the_same_buffer():
    writer = outputs.FuturesWriter()
    data = writer.write(result(), FakeModel(), "float16").latents.data
    other = replace(result(), futures=replace(result().futures, latents=result().futures.latents + 1))
    message = writer.write(other, FakeModel(), "float16")
    assert message.latents.data is data
    np.testing.assert_array_equal(
        messages.array_of(message.latents), other.futures.latents.astype(np.float16)
    )


def test_message_keeps_nothing_of_the_previous_one():
    writer = outputs.FuturesWriter()
    assert writer.write(result(), FakeModel(), "float16", goal_requested=True).has_goal
    message = writer.write(result(goal=False), FakeModel(), "float16")
    fresh = outputs.FuturesWriter().write(result(goal=False), FakeModel(), "float16")
    # Compared by repr, since the current energy is NaN.
    assert repr(message) == repr(fresh)
    assert (message.has_goal, message.goal_requested, len(message.energies.data)) == (False, False, 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "int64", "float32", "float64"])
def test_array_fields_equal_the_array(dtype):
    whole = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for shown in (whole, whole.T, whole[:, ::2, 1], whole[:0], whole[0, 0, 0].reshape(())):
        field = to_array_field(shown)
        assert field.itemsize == whole.itemsize
        assert field.tolist() == shown.ravel().tolist()


def test_result_without_futures_writes_none():
    with pytest.raises(ValueError, match="no futures"):
        outputs.FuturesWriter().write(result(futures=False), FakeModel(), "float16")


def half(values):
    out = np.full(values.shape, 7, np.float16)
    outputs.to_float16(values, out)
    return out
