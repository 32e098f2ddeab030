"""The memory layout of images, and the steps of resizing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.pixel_formats import ENCODINGS, RawLayout, Scaling, plan_scaling
from tests.errors import code

sides = st.integers(1, 5000)


def test_rows_without_a_stride_are_contiguous() -> None:
    layout = RawLayout("bgr8", 5, 4)
    assert (layout.row_bytes, layout.stride, layout.needed_bytes) == (15, 15, 60)


def test_last_row_is_not_padded() -> None:
    layout = RawLayout("rgba8", 5, 4, 32)
    assert (layout.stride, layout.needed_bytes) == (32, 3 * 32 + 20)
    layout.check_size(116)
    with pytest.raises(FrameError, check=code("frame.too_short")):
        layout.check_size(115)


@pytest.mark.parametrize("name", [name for name, encoding in ENCODINGS.items() if encoding.paired])
def test_paired_pixels_need_an_even_width(name: str) -> None:
    with pytest.raises(FrameError, check=code("frame.size_invalid")):
        RawLayout(name, 7, 2)


@given(sides, sides, sides, sides)
def test_first_step_divides_evenly_and_leaves_enough(
    height: int, width: int, out_height: int, out_width: int
) -> None:
    steps = plan_scaling(height, width, out_height, out_width)
    assert height % steps.factor == width % steps.factor == 0
    if height < out_height or width < out_width:
        assert steps.factor == 1 and not steps.averaged
    else:
        assert height // steps.factor >= out_height and width // steps.factor >= out_width


@pytest.mark.parametrize(
    ("height", "width", "out", "factor", "averaged"),
    [
        (480, 640, 224, 2, False),
        (479, 640, 224, 1, True),
        (300, 600, 100, 3, True),
        (600, 300, 100, 3, True),
        (400, 796, 100, 4, False),
        (100, 640, 224, 1, False),
    ],
)
def test_rest_of_the_first_step_is_interpolated_unless_a_side_must_still_be_halved(
    height: int, width: int, out: int, factor: int, averaged: bool
) -> None:
    assert plan_scaling(height, width, out, out) == Scaling(factor, averaged)


@given(sides, sides, sides, sides)
def test_interpolation_skips_no_pixel_when_both_axes_shrink(
    height: int, width: int, out_height: int, out_width: int
) -> None:
    steps = plan_scaling(height, width, out_height, out_width)
    if height >= out_height and width >= out_width and not steps.averaged:
        assert height // steps.factor < 2 * out_height and width // steps.factor < 2 * out_width
