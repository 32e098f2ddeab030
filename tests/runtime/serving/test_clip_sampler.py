"""Clips are sampled by time: images between the samples, gaps, jumps of the clock, and other cameras."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import ClipSpec
from jepa_runtime.model.encoder_cache import EncoderCache
from jepa_runtime.serving.clip_sampler import ClipSampler
from jepa_runtime.serving.history import Reset
from jepa_runtime.sources.base import Frame
from tests.runtime.fakes import FakeModel
from tests.runtime.pipelines import serve

STEP_S = 0.5


def manifest(
    frames: int = 4, frames_per_step: int = 2, cache_shape: tuple[int, ...] | None = None
) -> SimpleNamespace:
    clip = ClipSpec(frames=frames, frames_per_step=frames_per_step, cache_shape=cache_shape)
    io = SimpleNamespace(clip=clip, encoder_frames=frames, frame_interval_s=STEP_S / frames_per_step)
    return SimpleNamespace(io=io)


def image_at(seconds: float, sequence: int = 0, frame_id: str = "camera") -> Frame:
    """Return a frame whose pixels hold the number of its time in hundredths of a second."""
    image = np.full((8, 8, 3), round(seconds * 100) % 256, np.uint8)
    return Frame(image, 1_000_000_000 + round(seconds * 1e9), frame_id, sequence)


def clips(sampler: ClipSampler, times_s: Iterable[float]) -> dict[float, list[int]]:
    """Return the times in hundredths of a second of the images of each clip, by the time of its end."""
    found = {}
    for seconds in times_s:
        clip = sampler.add(image_at(seconds))
        if clip is not None:
            found[round(seconds, 3)] = [int(each[0, 0, 0]) for each in clip.images]
    return found


def test_clip_ends_once_per_step_with_the_last_images() -> None:
    found = clips(ClipSampler(manifest()), np.arange(0, 2, 0.25))
    assert found == {0.75: [0, 25, 50, 75], 1.25: [50, 75, 100, 125], 1.75: [100, 125, 150, 175]}


@pytest.mark.parametrize("rate_hz", [4.0, 8.0, 10.0, 13.0, 30.0, 59.94])
def test_samples_of_any_camera_are_about_one_interval_apart(rate_hz: float) -> None:
    times_s = np.arange(0, 20, 1 / rate_hz)
    jitter = np.random.default_rng(0).uniform(-0.005, 0.005, len(times_s))
    found = clips(ClipSampler(manifest(2, 2)), times_s + jitter)
    ends = np.array(list(found))
    assert len(ends) == pytest.approx(20 / STEP_S, abs=2)
    assert np.abs(np.diff(ends) - STEP_S).max() <= 1 / rate_hz + 0.02


def test_camera_slower_than_nominal_keeps_its_clips() -> None:
    found = clips(ClipSampler(manifest()), np.arange(0, 300, 0.2525))
    assert np.diff(list(found)).max() < 0.51


def test_missing_sample_begins_a_new_sequence() -> None:
    sampler = ClipSampler(manifest())
    assert list(clips(sampler, [0, 0.25, 0.5, 0.75])) == [0.75]
    assert sampler.obstacle == ""
    assert clips(sampler, [1.25, 1.5, 1.75]) == {}
    assert "needs 4 images, 0.25 s apart, and 3 are there" in sampler.obstacle
    assert clips(sampler, [2.0]) == {2.0: [125, 150, 175, 200]}


def test_image_repeated_with_the_same_stamp_is_ignored() -> None:
    found = clips(ClipSampler(manifest()), np.repeat(np.arange(0, 1, 0.25), 3))
    assert found == {0.75: [0, 25, 50, 75]}


def test_stamp_that_goes_backwards_is_counted_and_begins_a_new_sequence() -> None:
    sampler = ClipSampler(manifest(2, 2))
    assert sampler.add(image_at(5.0)) is None
    before = sampler.add(image_at(5.25))
    assert before is not None and before.clock_jumps == 0
    assert sampler.add(image_at(1.0)) is None
    clip = sampler.add(image_at(1.25))
    assert clip is not None and clip.clock_jumps == 1
    assert [int(each[0, 0, 0]) for each in clip.images] == [100, 125]


def test_causal_encoder_gets_each_step_from_the_first_one() -> None:
    sampler = ClipSampler(manifest(6, 2, cache_shape=(1,)))
    found = [clip for each in np.arange(0, 2, 0.25) if (clip := sampler.add(image_at(each))) is not None]
    assert [clip.is_complete for clip in found] == [False, False, True, True]
    assert [len(clip.images) for clip in found] == [2, 4, 6, 6]
    assert np.diff([clip.step for clip in found]).tolist() == [1, 1, 1]
    later = [clip for each in (5.0, 5.25) if (clip := sampler.add(image_at(each))) is not None]
    assert [clip.is_complete for clip in later] == [False]
    assert later[0].step - found[-1].step > 2, "no entry of the cache is in reach"


def test_images_of_two_cameras_never_form_a_clip() -> None:
    sampler = ClipSampler(manifest(2, 2))
    for index in range(8):
        assert sampler.add(image_at(0.25 * index, frame_id=f"camera {index % 2}")) is None


def test_model_of_single_images_gets_every_image() -> None:
    io = SimpleNamespace(clip=None, encoder_frames=1, frame_interval_s=STEP_S)
    found = clips(ClipSampler(SimpleNamespace(io=io)), [0, 0.01, 0.02])
    assert found == {0.0: [0], 0.01: [1], 0.02: [2]}


class ClipModel(FakeModel):
    """The latent of a clip is the mean of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest.io.clip = ClipSpec(frames=4, frames_per_step=2)
        self.manifest.io.encoder_frames = 4
        self.manifest.io.step_s, self.manifest.io.frame_interval_s = STEP_S, STEP_S / 2
        self.encoded: list[int] = []

    def encode_clip(
        self, images: tuple[NDArray[np.uint8], ...], cache: EncoderCache | None = None, step: int = 0
    ) -> NDArray[np.float32]:
        self.encoded.append(len(images))
        return self.encode(np.mean(images, axis=0).astype(np.uint8))


def test_pipeline_encodes_one_clip_per_step_and_skips_all_other_images() -> None:
    with serve(ClipModel()) as served:
        assert "and 0 are there" in served.pipeline.clip_obstacle()
        served.feed(*(image_at(index / 30, index) for index in range(61)))
        stats = served.pipeline.stats()
        assert served.pipeline.clip_obstacle() == ""
    assert served.model.encoded == [4] * len(served.results)
    stamps_s = [(result.stamp_ns - 1_000_000_000) / 1e9 for result in served.results]
    assert stamps_s == pytest.approx([0.75, 1.25, 1.75], abs=1 / 30)
    assert (stats.received, stats.processed, stats.skipped, stats.deadline_misses) == (61, 3, 58, 0)
    assert served.results[1].reset is None and not served.errors


def test_clock_set_back_resets_the_history_although_the_clip_ends_later() -> None:
    with serve(ClipModel()) as served:
        served.feed(*(image_at(each, index) for index, each in enumerate(np.arange(0, 1, 0.25))))
        served.feed(*(image_at(each, 4 + index) for index, each in enumerate(np.arange(0.5, 1.5, 0.25))))
    assert [result.reset for result in served.results] == [Reset.FIRST, Reset.CLOCK_BACKWARDS]


def test_gap_resets_the_history_as_for_single_images() -> None:
    with serve(ClipModel()) as served:
        times_s = [*np.arange(0, 1, 0.25), *np.arange(5, 6, 0.25)]
        served.feed(*(image_at(each, index) for index, each in enumerate(times_s)))
    assert [result.reset for result in served.results] == [Reset.FIRST, Reset.GAP]


def test_other_camera_resets_the_history() -> None:
    with serve(ClipModel()) as served:
        frames = [image_at(each) for each in np.arange(0, 1, 0.25)]
        others = [replace(image_at(each), frame_id="other") for each in np.arange(1, 2, 0.25)]
        served.feed(*frames, *others)
    assert [result.reset for result in served.results] == [Reset.FIRST, Reset.FRAME]


def test_slow_encoder_drops_no_sample_of_a_clip() -> None:
    """Images that arrive while a clip is encoded are sampled when they are submitted."""
    model = ClipModel()
    model._encode_s = 0.05
    with serve(model) as served:
        for index, seconds in enumerate(np.arange(0, 3, 0.25)):
            served.pipeline.submit(image_at(seconds, index))
        assert served.pipeline.wait_idle(5.0)
        stats = served.pipeline.stats()
    assert served.results[-1].stamp_ns == image_at(2.75).stamp_ns
    assert stats.processed + stats.dropped == 5 and stats.skipped == 7
