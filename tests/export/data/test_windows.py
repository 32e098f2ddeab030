"""Clips contain the right frames and actions; batches follow from seed and step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_export.data.action_statistics import measure, outliers
from jepa_export.data.batches import Batches
from jepa_export.data.clip_windows import Windows
from jepa_export.data.drawn_rooms import SimulatedRecording
from jepa_export.data.frame_store import FrameStore
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.sources.commands import Commands, Floats, Stamps
from tests.errors import code
from tests.export.data.recordings import SIZE, Numbered, numbers_of, speeds

MS = 1_000_000
AT_10_HZ = [index * 100 * MS for index in range(30)]


class InMemory:
    """Represent a recording whose frames are one pixel: their row."""

    height = width = 1

    def __init__(
        self, stamps_ns: Stamps, commands: Commands | None = None, *, name: str = "in memory"
    ) -> None:
        self.name = self.identity = self.key = name
        self.stamps_ns, self._commands = stamps_ns, commands
        self.rate_hz = 1e9 / float(np.median(np.diff(stamps_ns))) if len(stamps_ns) > 1 else 0.0
        self.episodes = np.zeros(len(stamps_ns), np.int32)
        self.action_names = None if commands is None else commands.names
        self.action_units = None if commands is None else commands.units
        self.known = np.zeros(len(stamps_ns), bool) if commands is None else commands.known(stamps_ns)

    def frames(self, rows: NDArray[np.integer]) -> Image:
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 1, 1, 3))

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        assert self._commands is not None
        return self._commands.mean(starts_ns, ends_ns)


def test_clip_has_frames_one_step_apart_and_the_actions_between_them(store: FrameStore) -> None:
    commands = speeds([stamp + 50 * MS for stamp in AT_10_HZ], [float(index) for index in range(30)])
    windows = Windows([store.prepare(Numbered(AT_10_HZ, commands))], frames=3, rate_hz=5.0)
    # The first frame was recorded before the first command.
    assert len(windows) == 30 - 4 - 1
    clip = windows[4]
    assert clip.frames.shape == (3, *SIZE, 3)
    assert numbers_of(clip.frames) == [5, 7, 9]
    assert clip.stamps_ns.tolist() == [500 * MS, 700 * MS, 900 * MS]
    assert clip.actions is not None
    assert clip.actions.dtype == np.float32
    # Held over 500-700 ms: 4 for 50 ms, 5 for 100 ms, 6 for 50 ms.
    np.testing.assert_allclose(clip.actions, [[5.0], [7.0], [9.0]])


def test_clips_are_numbered_across_recordings_and_never_span_two(store: FrameStore) -> None:
    recordings = [store.prepare(Numbered(AT_10_HZ[:length], name=str(length))) for length in (4, 2, 5)]
    windows = Windows(recordings, frames=3, rate_hz=10.0)
    assert [numbers_of(windows[index].frames)[0] for index in range(len(windows))] == [0, 1, 0, 1, 2]
    assert windows[0].actions is None
    for index in (-1, 5):
        with pytest.raises(IndexError, match="there are 5 clips"):
            windows[index]


def test_clips_never_span_a_gap(store: FrameStore) -> None:
    missing = {7, 8, 9}
    stamps = [stamp for index, stamp in enumerate(AT_10_HZ[:16]) if index not in missing]
    windows = Windows([store.prepare(Numbered(stamps))], frames=3, rate_hz=10.0)
    starts = [int(windows[index].stamps_ns[0]) // (100 * MS) for index in range(len(windows))]
    assert starts == [0, 1, 2, 3, 4, 10, 11, 12, 13]


def test_stride_takes_every_nth_start(store: FrameStore) -> None:
    windows = Windows([store.prepare(Numbered(AT_10_HZ))], frames=2, rate_hz=10.0, stride=7)
    assert [numbers_of(windows[index].frames)[0] for index in range(len(windows))] == [0, 7, 14, 21, 28]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 8000), st.integers(-9, 9)), min_size=1, max_size=20),
    st.integers(1, 4),
    st.sampled_from([100, 200, 450]),
)
def test_every_clip_is_aligned_and_no_complete_one_is_missing(
    gaps_ms: list[int], given_commands: list[tuple[int, int]], frames: int, step_ms: int
) -> None:
    ordered = sorted(given_commands)
    stamps = np.cumsum(gaps_ms) * MS
    commands = speeds([at * MS for at, _ in ordered], [float(value) for _, value in ordered])
    recording = InMemory(stamps, commands)
    try:
        windows = Windows([recording], frames=frames, rate_hz=1000 / step_ms)
    except JepaExportError:
        return
    step, tolerance = step_ms * MS, min((step_ms * MS - 1) // 2, round(1e9 / (recording.rate_hz or 1e18)))
    expected = []
    for start in stamps:
        targets = start + np.arange(frames) * step
        rows = [int(np.abs(stamps - target).argmin()) for target in targets]
        near = all(
            abs(int(stamps[row]) - target) <= tolerance for row, target in zip(rows, targets, strict=True)
        )
        if near and all(commands.at(int(stamps[row])) is not None for row in rows):
            expected.append(rows)
    clips = [windows[index] for index in range(len(windows))]
    assert [clip.frames[:, 0, 0, 0].tolist() for clip in clips] == expected
    for clip in clips:
        assert clip.actions is not None
        moments = np.append(clip.stamps_ns, clip.stamps_ns[-1] + step)
        assert (np.diff(moments) > 0).all()
        np.testing.assert_array_equal(clip.actions, commands.mean(moments[:-1], moments[1:]))


def test_frame_beyond_the_camera_period_does_not_replace_a_missing_one(
    store: FrameStore,
) -> None:
    stamps = [index * 50 * MS for index in range(41) if not 900 < index * 50 < 1200]
    windows = Windows([store.prepare(Numbered(stamps))], frames=2, rate_hz=1.0)
    starts_ms = [int(windows[index].stamps_ns[0]) // MS for index in range(len(windows))]
    # No frame within 50 ms is 1000 ms after the first frames.
    assert starts_ms == list(range(150, 901, 50))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"frames": 3, "rate_hz": 20.0}, "data.rate_too_high"),
        ({"frames": 31, "rate_hz": 10.0}, "data.no_clip"),
        ({"frames": 0, "rate_hz": 10.0}, "data.clip_shape"),
        ({"frames": 1, "rate_hz": 0.0}, "data.clip_shape"),
        ({"frames": 1, "rate_hz": 1.0, "stride": 0}, "data.clip_shape"),
    ],
)
def test_impossible_clips_are_an_error(store: FrameStore, arguments: dict[str, float], expected: str) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        Windows([store.prepare(Numbered(AT_10_HZ))], **arguments)  # type: ignore[arg-type]


def test_mismatched_recordings_are_rejected(store: FrameStore, tmp_path: Path) -> None:
    plain = store.prepare(Numbered(AT_10_HZ))
    commanded = store.prepare(Numbered(AT_10_HZ, speeds([0], [1.0]), name="commanded"))
    other = Commands(("linear.x",), ("unknown",), np.array([0]), np.ones((1, 1)))
    unlike = store.prepare(Numbered(AT_10_HZ, other, name="unlike"))
    smaller = FrameStore(tmp_path, height=8, width=8).prepare(Numbered(AT_10_HZ))
    with pytest.raises(JepaExportError, check=code("data.action_mismatch")):
        Windows([plain, commanded], frames=2, rate_hz=10.0)
    with pytest.raises(JepaExportError, check=code("data.action_mismatch")):
        Windows([commanded, unlike], frames=2, rate_hz=10.0)
    with pytest.raises(JepaExportError, check=code("data.size_mismatch")):
        Windows([plain, smaller], frames=2, rate_hz=10.0)


def test_digest_changes_with_the_training_data(store: FrameStore) -> None:
    def digest(*names: str, frames: int = 2, rate_hz: float = 10.0) -> str:
        recordings = [store.prepare(Numbered(AT_10_HZ, name=name)) for name in names]
        return Windows(recordings, frames=frames, rate_hz=rate_hz).digest

    assert digest("a", "b") == digest("a", "b")
    digests = {
        digest("a"),
        digest("a", "b"),
        digest("b", "a"),
        digest("a", frames=3),
        digest("a", rate_hz=5.0),
    }
    assert len(digests) == 5


def test_digest_changes_with_known_actions(store: FrameStore) -> None:
    digests = {
        Windows(
            [store.prepare(Numbered(AT_10_HZ, speeds([start * MS], [1.0])))], frames=2, rate_hz=10.0
        ).digest
        for start in (0, 300)
    }
    assert len(digests) == 2


def test_digest_changes_with_executed_actions(store: FrameStore) -> None:
    def digest(*values: float) -> str:
        commands = speeds([0, 1500 * MS], list(values), max_age_s=10.0)
        return Windows([store.prepare(Numbered(AT_10_HZ, commands))], frames=2, rate_hz=10.0).digest

    assert digest(1.0, 2.0) == digest(1.0, 2.0)
    assert len({digest(1.0, 2.0), digest(1.0, 2.5), digest(0.0, 2.0)}) == 3


def test_camera_rate_is_that_of_recordings_with_clips(store: FrameStore) -> None:
    recordings = [store.prepare(Numbered([0], name="aborted")), store.prepare(Numbered(AT_10_HZ))]
    assert Windows(recordings, frames=2, rate_hz=5.0).camera_hz == 10.0


# ------------------------------------------------------------------ batches


def ten_clips(count: int = 10) -> Windows:
    return Windows([InMemory(np.arange(count) * 100 * MS)], frames=1, rate_hz=10.0)


def test_epoch_visits_all_clips_in_its_own_order() -> None:
    batches = Batches(ten_clips(), size=5, seed=3)
    epochs = [
        np.concatenate([batches.indices(step), batches.indices(step + 1)]).tolist() for step in (0, 2, 4)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches.indices(0).tolist() != Batches(ten_clips(), size=5, seed=4).indices(0).tolist()


def test_incomplete_batch_is_left_for_another_epoch() -> None:
    batches = Batches(ten_clips(), size=4, seed=0)
    assert batches.per_epoch == 2
    epoch = np.concatenate([batches.indices(0), batches.indices(1)])
    assert len(set(epoch.tolist())) == 8


def test_killed_training_resumes_with_the_same_batches() -> None:
    whole = [batch.frames for batch in Batches(ten_clips(), size=3, seed=1).iterate(0, 12)]
    resumed = [batch.frames for batch in Batches(ten_clips(), size=3, seed=1, workers=1).iterate(7, 12)]
    np.testing.assert_array_equal(whole[7:], resumed)
    np.testing.assert_array_equal(Batches(ten_clips(), size=3, seed=1).batch(9).frames, whole[9])


def test_batches_are_prefetched_within_a_limit(store: FrameStore) -> None:
    class Counting(InMemory):
        read = 0

        def frames(self, rows: NDArray[np.integer]) -> Image:
            self.read += 1
            return super().frames(rows)

    recording = Counting(np.arange(10) * 100 * MS)
    batches = Batches(Windows([recording], frames=1, rate_hz=10.0), size=1, seed=0)
    stream = batches.iterate(0, 10_000)
    next(stream)
    stream.close()
    assert 1 <= recording.read <= 6


def test_batch_contains_frames_stamps_and_actions() -> None:
    stamps = np.arange(10) * 100 * MS
    windows = Windows([InMemory(stamps, speeds(stamps.tolist(), list(range(10))))], frames=2, rate_hz=10.0)
    batch = Batches(windows, size=4, seed=0).batch(0)
    assert batch.frames.shape == (4, 2, 1, 1, 3) and batch.frames.dtype == np.uint8
    assert batch.stamps_ns.shape == (4, 2)
    assert batch.actions is not None and batch.actions.shape == (4, 2, 1)
    np.testing.assert_array_equal(batch.actions[..., 0], batch.frames[..., 0, 0, 0])


def test_read_error_reaches_the_training_loop(store: FrameStore) -> None:
    recording = store.prepare(Numbered(AT_10_HZ))
    batches = Batches(Windows([recording], frames=2, rate_hz=10.0), size=2, seed=0)
    (store.folder / recording.key / "frames.rgb").unlink()
    with pytest.raises(JepaExportError, check=code("data.store_unavailable")):
        next(batches.iterate(0, 5))


def test_batch_larger_than_the_data_is_rejected() -> None:
    with pytest.raises(JepaExportError, check=code("data.too_few_clips")):
        Batches(ten_clips(), size=11, seed=0)


# ------------------------------------------------------------------ Two Rooms


def rooms(index: int, *, frames: int = 6, size: int = 128) -> SimulatedRecording:
    return SimulatedRecording(3, index, frames=frames, layout="random", height=size, width=size)


def test_two_rooms_clips_are_rendered_on_access_and_repeatable() -> None:
    windows = Windows([rooms(0), rooms(1)], frames=3, rate_hz=5.0)
    assert len(windows) == 8
    clips = [windows[5], windows[5], windows[0]]
    np.testing.assert_array_equal(clips[0].frames, clips[1].frames)
    assert not np.array_equal(clips[0].frames, clips[2].frames)
    assert clips[0].frames.shape == (3, 128, 128, 3)
    actions = clips[0].actions
    assert actions is not None and actions.shape == (3, 2)
    assert np.linalg.norm(actions, axis=1).max() > 0


def test_two_rooms_actions_are_those_that_moved_the_robot() -> None:
    from jepa_export.data.two_rooms_recordings import record

    drawn = record((3, 7, 0), layouts=1, trajectories=1, frames=7, kind="random")
    clip = Windows([rooms(0)], frames=6, rate_hz=5.0)[0]
    np.testing.assert_array_equal(clip.frames, drawn.frames[0, 0, :6])
    np.testing.assert_allclose(clip.actions, drawn.actions[0, 0], rtol=1e-5)


def test_two_rooms_frames_are_scaled_to_the_requested_size() -> None:
    assert Windows([rooms(0, size=32)], frames=2, rate_hz=2.5)[0].frames.shape == (2, 32, 32, 3)


# ------------------------------------------------------------------ statistics


class Blind(InMemory):
    def frames(self, rows: NDArray[np.integer]) -> Image:
        raise AssertionError("a frame was read")


def test_statistics_cover_all_actions() -> None:
    stamps = np.arange(50) * 100 * MS
    values = np.stack([np.arange(50.0), np.full(50, 2.0)], axis=1)
    commands = Commands(("a", "b"), ("m/s", "rad/s"), stamps, values)
    actions = measure(Windows([Blind(stamps, commands)], frames=1, rate_hz=10.0))
    assert actions is not None
    assert (actions.names, actions.units) == (("a", "b"), ("m/s", "rad/s"))
    np.testing.assert_allclose(actions.mean, [24.5, 2])
    np.testing.assert_allclose(actions.std, [values[:, 0].std(), 0])
    assert (actions.low, actions.high) == ((0, 2), (49, 2))


def test_rare_values_are_within_the_range() -> None:
    stamps = np.arange(20_000) * 100 * MS
    values = np.sin(np.arange(20_000.0))
    values[12_345] = 7
    statistics = measure(
        Windows([Blind(stamps, speeds(stamps.tolist(), values.tolist()))], frames=4, rate_hz=10.0)
    )
    assert statistics is not None and statistics.high == (7.0,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([50.0] * 5, []),
        ([0.1, 0.2, 0.3, 0.4, 2.0], []),
        ([0.0, 0.0, 0.0, 0.0, 2.0], []),
        ([0.2, 0.2, 0.2, -200.0, 0.2], ["linear.x reaches -200 in drive 3, 0.2 in most recordings"]),
    ],
)
def test_recording_with_actions_of_another_magnitude_is_named(
    values: list[float], expected: list[str]
) -> None:
    """Millimeters among meters, or one value from a bad cable."""
    stamps = np.arange(50) * 100 * MS
    recordings = []
    for number, value in enumerate(values):
        rows = np.zeros(50)
        rows[17] = value
        recordings.append(Blind(stamps, speeds(stamps.tolist(), rows.tolist()), name=f"drive {number}"))
    assert outliers(Windows(recordings, frames=2, rate_hz=10.0)) == expected


def test_statistics_cover_only_the_training_clips() -> None:
    rng = np.random.default_rng(0)
    recordings = []
    for count in (40, 1, 90):
        stamps = np.cumsum(rng.integers(80, 120, count)) * MS
        values = (1000 + rng.normal(size=count)).tolist()
        recordings.append(InMemory(stamps, speeds((stamps + 30 * MS).tolist(), values)))
    windows = Windows(recordings, frames=3, rate_hz=5.0)
    clips = [windows[index].actions for index in range(len(windows))]
    actions = np.concatenate([clip for clip in clips if clip is not None]).astype(float)
    statistics = measure(windows)
    assert statistics is not None
    assert (statistics.low, statistics.high) == (tuple(actions.min(axis=0)), tuple(actions.max(axis=0)))
    np.testing.assert_allclose([statistics.mean, statistics.std], [actions.mean(axis=0), actions.std(axis=0)])


def test_constant_action_has_no_spread_and_videos_have_no_actions() -> None:
    stamps = np.arange(50) * 100 * MS
    statistics = measure(
        Windows([Blind(stamps, speeds(stamps.tolist(), [0.1] * 50))], frames=1, rate_hz=10.0)
    )
    assert statistics is not None and statistics.std == (0,)
    assert measure(ten_clips()) is None
