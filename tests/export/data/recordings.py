"""Recordings for tests: frames that encode their number, in real videos and LeRobot data sets."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jepa_runtime.imaging.conversion import Image
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.commands import Commands

SIZE = (48, 64)
FPS = 10
CAMERA = "observation.images.front"
_BITS = 8
_MS = Fraction(1, 1000)


def numbered(number: int, size: tuple[int, int] = SIZE) -> Image:
    """Return an image of eight black or white bars, which survive a video codec."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(_BITS)], np.uint8)
    return np.broadcast_to(bars.repeat(size[1] // _BITS)[None, :, None], (*size, 3)).copy()


def numbers_of(frames: Sequence[Image] | Image) -> list[int]:
    """Return the numbers that images encode."""
    bars = [frame.mean(axis=(0, 2)).reshape(_BITS, -1).mean(axis=1) for frame in frames]
    return [sum(1 << bit for bit, bar in enumerate(of_frame) if bar > 127) for of_frame in bars]


def write_video(
    path: Path,
    numbers: Sequence[int],
    *,
    codec: str = "libx264",
    stamps_ms: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Write a video of numbered frames at 10 Hz, or at ``stamps_ms``."""
    av = pytest.importorskip("av", reason="PyAV is not installed (extra export)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, FPS)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if stamps_ms is not None:
            stream.codec_context.time_base = _MS
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(numbered(number, size), format="rgb24")
            if stamps_ms is not None:
                frame.pts, frame.time_base = stamps_ms[index], _MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Numbered:
    """An origin in memory: numbered frames with given stamps and sizes."""

    def __init__(
        self,
        stamps_ns: Sequence[int],
        commands: Commands | None = None,
        *,
        name: str = "numbered",
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.name = name
        self.decoded = 0
        self._stamps, self._commands = stamps_ns, commands
        self._sizes = [SIZE] * len(stamps_ns) if sizes is None else sizes

    def identity(self) -> str:
        return f"{self.name} {list(self._stamps)}"

    def frames_key(self) -> str:
        return self.identity()

    def commands(self) -> Commands | None:
        return self._commands

    def frames(self) -> Iterator[Frame]:
        for number, (stamp_ns, size) in enumerate(zip(self._stamps, self._sizes, strict=True)):
            self.decoded += 1
            yield Frame(numbered(number % 256, size), stamp_ns, "", number)


def speeds(stamps_ns: Sequence[int], values: Sequence[float], **more: float) -> Commands:
    """Return commands of one component."""
    return Commands(("linear.x",), ("m/s",), np.array(stamps_ns), np.array(values)[:, None], **more)


# ------------------------------------------------------------------ LeRobot


def actions_of(episode: int, length: int) -> np.ndarray:
    """Return the actions [length, 2] of the data sets below: the episode, and the number of the frame."""
    return np.stack([np.full(length, episode), np.arange(length)], axis=1).astype(np.float32)


def frame_numbers(episode: int, length: int) -> list[int]:
    """Return the numbers that the frames of an episode encode."""
    return [(20 * episode + index) % 256 for index in range(length)]


def write_lerobot(
    folder: Path,
    lengths: Sequence[int],
    *,
    version: str,
    codec: str = "libx264",
    images: bool = False,
    names: Any = None,
) -> Path:
    """Write episodes of ``lengths`` frames, format v2.x or v3.0, with images in videos or in the table."""
    features: dict[str, Any] = {
        CAMERA: {
            "dtype": "image" if images else "video",
            "shape": [*SIZE, 3],
            "names": ["height", "width", "channels"],
        },
        "action": {"dtype": "float32", "shape": [2], "names": names},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            name: {"dtype": "int64", "shape": [1], "names": None}
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
    }
    old = version.startswith("v2")
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        if old
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if old
        else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))
    write = _write_v2 if old else _write_v3
    write(folder, lengths, codec, images)
    return folder


def _write_v2(folder: Path, lengths: Sequence[int], codec: str, images: bool) -> None:
    lines = []
    for episode, length in enumerate(lengths):
        table = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        _write_table(table, _rows(episode, length, sum(lengths[:episode]), images))
        if not images:
            video = folder / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
            write_video(video, frame_numbers(episode, length), codec=codec)
        lines.append(json.dumps({"episode_index": episode, "tasks": ["go"], "length": length}))
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")


def _write_v3(folder: Path, lengths: Sequence[int], codec: str, images: bool) -> None:
    """Write all episodes into one file of each kind."""
    rows, entries, numbers = [], [], []
    for episode, length in enumerate(lengths):
        start = len(numbers)
        rows += _rows(episode, length, start, images)
        numbers += frame_numbers(episode, length)
        entry = {
            "episode_index": episode,
            "tasks": ["go"],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        if not images:
            video = f"videos/{CAMERA}"
            entry |= {f"{video}/chunk_index": 0, f"{video}/file_index": 0}
            entry |= {f"{video}/from_timestamp": start / FPS, f"{video}/to_timestamp": (start + length) / FPS}
        entries.append(entry)
    _write_table(folder / "data/chunk-000/file-000.parquet", rows)
    _write_table(folder / "meta/episodes/chunk-000/file-000.parquet", entries)
    if not images:
        videos = [
            _video(tuple(frame_numbers(episode, length)), codec) for episode, length in enumerate(lengths)
        ]
        _join(videos, folder / f"videos/{CAMERA}/chunk-000/file-000.mp4")


@cache
def _video(numbers: tuple[int, ...], codec: str) -> bytes:
    """Return a video of numbered frames, always the same bytes: an encoder may not be deterministic."""
    with tempfile.TemporaryDirectory() as folder:
        return write_video(Path(folder) / "film.mp4", numbers, codec=codec).read_bytes()


def _join(videos: Sequence[bytes], path: Path) -> None:
    """Concatenate videos without re-encoding."""
    av = pytest.importorskip("av", reason="PyAV is not installed (extra export)")
    path.parent.mkdir(parents=True, exist_ok=True)
    begins, stream = Fraction(0), None
    with av.open(str(path), "w") as container:
        for video in videos:
            with av.open(io.BytesIO(video)) as part:
                source = part.streams.video[0]
                stream = stream or container.add_stream_from_template(source, opaque=True)
                for packet in part.demux(source):
                    if packet.dts is not None:
                        packet.pts += int(begins / source.time_base)
                        packet.dts += int(begins / source.time_base)
                        packet.stream = stream
                        container.mux(packet)
                begins += Fraction(source.frames, FPS)


def _rows(episode: int, length: int, start: int, images: bool) -> list[dict[str, Any]]:
    rows = []
    for index, number in enumerate(frame_numbers(episode, length)):
        row: dict[str, Any] = {
            "action": actions_of(episode, length)[index],
            "timestamp": np.float32(index / FPS),
            "frame_index": index,
            "episode_index": episode,
            "index": start + index,
            "task_index": 0,
        }
        if images:
            row[CAMERA] = {"bytes": cv2.imencode(".png", numbered(number))[1].tobytes(), "path": None}
        rows.append(row)
    return rows


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra export)")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)
