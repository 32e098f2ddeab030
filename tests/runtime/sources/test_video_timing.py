"""Times of frames from the stamps of a video file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.sources.video_timing import timed_frames

IMAGE = np.zeros((1, 1, 3), np.uint8)


def timed(stamps: Sequence[int | None]) -> list[tuple[int, str]]:
    """Return the times and ids of frames with these stamps, in a video with a period of 10 ns."""
    decoded = [(stamp, IMAGE) for stamp in stamps]
    frames = list(timed_frames(decoded, period_ns=10, start_ns=0, frame_id="v"))
    assert [frame.sequence for frame in frames] == list(range(len(stamps)))
    return [(frame.stamp_ns, frame.frame_id) for frame in frames]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([], []),
        ([70], [0]),
        ([70, 80, 95, 200], [0, 10, 25, 130]),
        ([None, None, None], [0, 10, 20]),
        ([20, 30, None, None], [0, 10, 20, 30]),
        ([0, 30, 20, 40, 10, 70, 60, 80, 50], [0, 10, 20, 30, 40, 50, 60, 70, 80]),
        ([0, 10, 10, 20], [0, 10, 15, 20]),
        ([7, 7, 7], [0, 5, 10]),
    ],
)
def test_frames_of_a_continuous_video_have_increasing_times(
    stamps: list[int | None], expected: list[int]
) -> None:
    assert timed(stamps) == [(stamp, "v") for stamp in expected]


def test_video_that_starts_again_continues_after_one_period_as_another_view() -> None:
    first, again = range(500, 700, 10), [500, 510, 530, *range(540, 700, 10)]
    found = timed([*first, *again, *first])
    assert [view for _, view in found] == ["v"] * 20 + ["v#2"] * 19 + ["v#3"] * 20
    assert [stamp for stamp, _ in found] == [
        *range(0, 200, 10),
        *(stamp - 300 for stamp in again),
        *range(400, 600, 10),
    ]


@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=60))
def test_times_increase_for_any_stamps(stamps: list[int | None]) -> None:
    times = [stamp for stamp, _ in timed(stamps)]
    assert times[:1] in ([], [0])
    assert all(earlier < later for earlier, later in pairwise(times))
