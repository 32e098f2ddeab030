"""Video files, decoded by PyAV: with the stamps of the file, and from any time on.

PyAV also decodes AV1, which LeRobot writes and the FFmpeg in OpenCV's wheels does not support.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.file_hash import file_hash
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image
from jepa_runtime.sources import Commands, Frame

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts"})
# Containers estimate their number of frames from duration and rate; a real truncation exceeds these
# tolerances.
_COUNT_SLACK = 0.02
_COUNT_SLACK_FRAMES = 3
_EARLY_S = 1e-3


class VideoOrigin:
    """A video file without actions. Stamps begin at 0."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path

    def identity(self) -> str:
        return file_hash(self._path)

    def frames_key(self) -> str:
        return file_hash(self._path)

    def commands(self) -> Commands | None:
        return None

    def frames(self) -> Iterator[Frame]:
        first_ns = None
        for sequence, (stamp_ns, image) in enumerate(decoded(self._path)):
            first_ns = stamp_ns if first_ns is None else first_ns
            yield Frame(image, stamp_ns - first_ns, "", sequence)


def decoded(path: Path, *, start_s: float = 0.0) -> Iterator[tuple[int, Image]]:
    """Yield the frames of a video from ``start_s`` on: stamp in the file [ns] and image.

    Raises:
        JepaExportError: PyAV is missing, or the file is not a video, has no frames, is damaged, or, read from
            its beginning, ends well before its announced last frame.
    """
    av = _pyav()
    count = 0
    try:
        with _opened(av, path) as container:
            if not container.streams.video:
                raise JepaExportError(f"{path}: contains no video stream", code="data.not_a_video")
            stream = container.streams.video[0]
            if start_s > 0:
                # Seek to the previous key frame; frames in between are decoded and dropped.
                container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
            announced = _announced(stream, container)
            # Stamps are rounded: a frame that begins just before may be the requested one.
            first_s = start_s - 0.5 / float(stream.average_rate or 1000) if start_s > 0 else None
            for frame in container.decode(stream):
                stamp_s = _stamp_s(frame, path)
                if first_s is not None and stamp_s < first_s:
                    continue
                if frame.is_corrupt:
                    raise JepaExportError(
                        f"{path}: damaged after {count} frames; copy it again, or leave it out",
                        code="data.video_damaged",
                    )
                yield round(stamp_s * 1_000_000_000), _upright(frame)
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise JepaExportError(
            f"{path}: cannot be decoded after {count} frames ({error.strerror}): not a video, truncated, or "
            "damaged; copy it again, or leave it out",
            code="data.video_damaged",
        ) from error
    if count == 0:
        raise JepaExportError(
            f"{path}: no frame could be decoded from {start_s:g} s on; copy it again, or leave it out",
            code="data.no_frames",
        )
    if start_s == 0 and announced - count > max(_COUNT_SLACK_FRAMES, _COUNT_SLACK * announced):
        raise JepaExportError(
            f"{path}: ends after {count} of {announced} frames, truncated or damaged; copy it again, or "
            "leave it "
            "out",
            code="data.video_truncated",
        )


def stretch_hash(path: Path, start_s: float, end_s: float) -> str:
    """Return a hash of the packets that the frames from ``start_s`` to ``end_s`` are decoded from.

    It does not change when frames are appended to the file. Nothing is decoded.

    Raises:
        JepaExportError: See :func:`decoded`.
    """
    header, shown_s, keys, hashes = _packets(path, file_hash(path))
    # Stamps are rounded: a frame that begins just before may be the requested one.
    first = np.flatnonzero(keys & (shown_s <= start_s + _EARLY_S))[-1:].sum()
    after = np.flatnonzero(shown_s < end_s)[-1:].sum() + 1
    found = hashlib.sha256(header)
    for shown, content in zip(shown_s[first:after], hashes[first:after], strict=True):
        found.update(f"{shown:.6f}".encode() + content)
    return found.hexdigest()


@lru_cache(maxsize=4)
def _packets(path: Path, content: str) -> tuple[bytes, NDArray[np.float64], NDArray[np.bool_], list[bytes]]:
    """Return the codec header, and display time [s], key frame flag and hash of each packet."""
    del content
    av = _pyav()
    header, shown_s, keys, hashes = b"", [], [], []
    try:
        with _opened(av, path) as container:
            for stream in container.streams.video[:1]:
                header = stream.codec_context.extradata or b""
                for packet in container.demux(stream):
                    if packet.pts is not None:
                        shown_s.append(float(packet.pts * packet.time_base))
                        keys.append(packet.is_keyframe)
                        hashes.append(hashlib.sha256(packet).digest())
    except (av.FFmpegError, OSError) as error:
        raise JepaExportError(
            f"{path}: cannot be read ({error.strerror}): not a video, truncated, or damaged; copy it again, "
            "or "
            "leave it out",
            code="data.video_damaged",
        ) from error
    return header, np.array(shown_s, float), np.array(keys, bool), hashes


def _upright(frame: Any) -> Image:
    """Return the image as it is displayed: phones record rotated images and a rotation flag."""
    image: Image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return np.ascontiguousarray(image)


def _stamp_s(frame: Any, path: Path) -> Fraction:
    if frame.pts is None:
        raise JepaExportError(f"{path}: its frames have no time stamps; re-encode it", code="data.stamps")
    return Fraction(frame.pts * frame.time_base)


def _announced(stream: Any, container: Any) -> int:
    """Return the number of frames that the file announces: an estimate in some containers, 0 in others."""
    if stream.frames:
        return int(stream.frames)
    if container.duration is None or stream.average_rate is None:
        return 0
    return int(container.duration / 1_000_000 * stream.average_rate)


def _opened(av: Any, path: Path) -> Any:
    # Metadata may not be UTF-8: PyAV 19 always ignores errors, earlier versions only with this option.
    lenient = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    return av.open(str(path), **lenient)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise JepaExportError(
            "videos: PyAV is not installed; run pip install 'jepa-edge[export]'", code="data.missing_package"
        ) from None
    return av
