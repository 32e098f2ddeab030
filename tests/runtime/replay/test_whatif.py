"""Moments in a recording, and frames that represent latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.replay.whatif import Moment, executed, find_moment, index_at
from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.frame_album import FrameAlbum, thumbnail
from tests.errors import code
from tests.runtime.fakes import manifest

MS = 1_000_000
BAG = Path("drive.mcap")


def stamps(*times_ms: int) -> Any:
    return 10**18 + MS * np.array(times_ms, np.int64)


def moment(times: Any, at_s: float, **more: Any) -> Moment:
    return find_moment(BAG, times, manifest(), at_s=at_s, **({"horizon": 3, "around_s": 0.1} | more))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30, unique=True).map(sorted), st.floats(0, 10))
def test_moment_uses_the_last_image_before_it(times: list[int], at_s: float) -> None:
    since = [time - times[0] for time in times]
    if at_s * 1000 > since[-1] + 0.5:
        with pytest.raises(
            SourceError, match=f"its {len(times)} images span 0 to ", check=code("replay.no_such_moment")
        ):
            index_at(BAG, stamps(*times), at_s)
    elif all(abs(at_s * 1000 + 0.5 - time) > 1e-3 for time in since):
        index = index_at(BAG, stamps(*times), at_s)
        assert index == max(i for i, time in enumerate(since) if time <= at_s * 1000 + 0.5)


def test_each_step_is_compared_with_the_image_due_then_if_any() -> None:
    times = stamps(0, 100, 200, 310, 400, 490, 520, 720)
    result = moment(times, 0.13)
    assert result.time_s == pytest.approx(0.1), "the stamp of its image"
    # At 0.3, 0.5 and 0.7 s; a step is 0.2 s, and images count that are within an eighth of it.
    assert (result.index, result.step_images) == (1, (3, 5, 7))
    assert moment(times, 0.2).step_images == (4, None, None)


def test_images_after_the_clock_was_set_back_are_not_compared() -> None:
    times = stamps(0, 100, 200, 300, 400, 500, 200, 300, 400, 500, 600, 700, 800)
    assert moment(times, 0.1).step_images == (3, 5, None)
    assert (moment(times, 0.2).index, moment(times, 0.2).step_images) == (6, (8, 10, 12))


def test_loaded_span_covers_history_and_steps_or_more_if_requested() -> None:
    times = stamps(*range(0, 5000, 100))
    few, many = moment(times, 2.0), moment(times, 2.0, around_s=1.5)
    assert (few.first, few.last) == (16, 28)
    assert (many.first, many.last) == (5, 35)
    assert (moment(times, 0.1).first, moment(times, 4.9).last) == (0, 49)


@pytest.mark.parametrize("horizon", [0, 4])
def test_more_steps_than_the_model_predicts_are_rejected(horizon: int) -> None:
    with pytest.raises(JepaRuntimeError, check=code("replay.horizon_out_of_range")):
        moment(stamps(0, 100), 0.0, horizon=horizon)


@pytest.mark.parametrize("at_s", [-0.1, 0.7, float("nan"), float("inf")])
def test_moment_outside_the_recording_is_rejected_with_its_span(at_s: float) -> None:
    with pytest.raises(
        SourceError, match=r"drive.mcap: no moment .* span 0 to 0.600 s", check=code("replay.no_such_moment")
    ):
        moment(stamps(0, 200, 600), at_s)


def commands(*entries: tuple[int, float]) -> Commands:
    values = np.array([[value, 0.0] for _, value in entries])
    return Commands(("x", "y"), ("m/s", "m/s"), stamps(*(time for time, _ in entries)), values)


def test_executed_actions_are_the_mean_of_each_step() -> None:
    result = moment(stamps(0, 200, 400, 600), 0.0)
    done = executed(BAG, commands((0, 0.1), (300, 0.3), (400, -0.2)), result, manifest())
    np.testing.assert_allclose(done, [[0.1, 0], [0.2, 0], [-0.2, 0]], rtol=1e-6)


def test_executed_actions_must_be_known_to_the_last_step() -> None:
    result = moment(stamps(0, 200, 400, 600), 0.0)
    with pytest.raises(SourceError, check=code("replay.no_commands")):
        executed(BAG, None, result, manifest())
    with pytest.raises(
        SourceError, match=r"unknown from 0 s after the moment on", check=code("replay.unknown_actions")
    ):
        executed(BAG, commands((10, 1.0)), result, manifest())
    with pytest.raises(
        SourceError,
        match=r"unknown from 0.4 s after .* younger than 0.5 s .* --horizon",
        check=code("replay.unknown_actions"),
    ):
        executed(BAG, commands((-150, 1.0)), result, manifest())


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_most_similar_frame_is_found(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    latents = random.standard_normal((count, 2, 4)).astype(np.float32)
    album = FrameAlbum()
    for index, latent in enumerate(latents):
        album.add(np.full((2, 2, 3), index, np.uint8), latent)
    request = random.standard_normal((5, 2, 4)).astype(np.float32)
    images, distances = album.nearest(request)
    norms = np.linalg.norm((request[:, None] - latents[None]).reshape(5, count, -1), axis=2)
    np.testing.assert_allclose(distances, norms.min(axis=1), rtol=1e-4)
    for image, row in zip(images, norms, strict=True):
        assert row[image[0, 0, 0]] == pytest.approx(row.min(), rel=1e-4)


def test_thumbnails_are_small_and_keep_their_proportions() -> None:
    assert thumbnail(np.zeros((480, 640, 3), np.uint8)).shape == (88, 117, 3)
    assert thumbnail(np.zeros((40, 60, 3), np.uint8)).shape == (40, 60, 3)
