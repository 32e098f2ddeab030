"""Video files, decoded by PyAV: with the stamps of the file, and from any time on.

PyAV also decodes AV1, which LeRobot writes and the FFmpeg in OpenCV's wheels does not support.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.file_hash import file_hash
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image
from jepa_runtime.sources import Commands, Frame, timed_frames, truncation_reason

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".wmv"}
)
_DEFAULT_RATE_HZ = 30
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
        """Yield the frames with the stamps of :class:`jepa_runtime.sources.video.VideoSource`."""
        frame = None
        with _opened(self._path) as container:
            stream = _video_stream(container, self._path)
            period_ns = round(1e9 / (_rate_hz(stream) or _DEFAULT_RATE_HZ))
            decoded = _decoded(container, stream, self._path)
            for frame in timed_frames(decoded, period_ns=period_ns, start_ns=0, frame_id=""):
                yield frame
            announced = _announced(stream, container)
        assert frame is not None
        reason = truncation_reason(
            self._path,
            announced=announced,
            count=frame.sequence + 1,
            elapsed_ns=frame.stamp_ns,
            period_ns=period_ns,
        )
        if reason is not None:
            raise JepaExportError(f"{self.name}: {reason}", code="data.video_truncated")


def decoded(path: Path, *, start_s: float = 0.0) -> Iterator[tuple[int, Image]]:
    """Yield the frames of a video from ``start_s`` on: stamp in the file [ns] and image.

    Raises:
        JepaExportError: PyAV is missing, or the file is not a video, is damaged, or has no frames there or no
            stamps.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        for stamp_ns, image in _decoded(container, stream, path, start_s=start_s):
            if stamp_ns is None:
                raise JepaExportError(
                    f"{path}: its frames have no time stamps; re-encode it", code="data.stamps"
                )
            yield stamp_ns, image


def _decoded(
    container: Any, stream: Any, path: Path, *, start_s: float = 0.0
) -> Iterator[tuple[int | None, Image]]:
    """Yield the stamp in the file [ns], or None, and the image of each frame."""
    av, count = _pyav(), 0
    if start_s > 0:
        # Seek to the previous key frame; frames in between are decoded and dropped.
        container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
    # Stamps are rounded: a frame that begins just before may be the requested one.
    first_s = start_s - 0.5 / (_rate_hz(stream) or 1000) if start_s > 0 else -math.inf
    try:
        for frame in container.decode(stream):
            # AVI only has the times of decoding. PyAV assigns them to packets, whose frames are reordered.
            ticks = frame.dts if container.format.name == "avi" else frame.pts
            stamp_s = None if ticks is None else Fraction(ticks * frame.time_base)
            if stamp_s is not None and stamp_s < first_s:
                continue
            if frame.is_corrupt:
                raise JepaExportError(
                    f"{path}: damaged after {count} frames; copy it again, or leave it out",
                    code="data.video_damaged",
                )
            yield None if stamp_s is None else round(stamp_s * 1_000_000_000), _upright(frame)
            count += 1
    except av.FFmpegError as error:
        raise JepaExportError(
            f"{path}: cannot be decoded after {count} frames ({error.strerror}): truncated or damaged; copy "
            "it again, or leave it out",
            code="data.video_damaged",
        ) from error
    if count == 0:
        raise JepaExportError(
            f"{path}: no frame could be decoded from {start_s:g} s on; copy it again, or leave it out",
            code="data.no_frames",
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
    header, shown_s, keys, hashes = b"", [], [], []
    with _opened(path) as container:
        for stream in container.streams.video[:1]:
            header = stream.codec_context.extradata or b""
            for packet in container.demux(stream):
                if packet.pts is not None:
                    shown_s.append(float(packet.pts * packet.time_base))
                    keys.append(packet.is_keyframe)
                    hashes.append(hashlib.sha256(packet).digest())
    return header, np.array(shown_s, float), np.array(keys, bool), hashes


def _upright(frame: Any) -> Image:
    """Return the image as it is displayed: phones record rotated images and a rotation flag."""
    image: Image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return np.ascontiguousarray(image)


def _rate_hz(stream: Any) -> float | None:
    """Return the mean rate of a video stream, or None if it is unknown."""
    rate = stream.average_rate
    # Unknown is None, or 0/0 in PyAV 19.
    return float(rate) if rate is not None and rate.numerator and rate.denominator else None


def _announced(stream: Any, container: Any) -> int:
    """Return the number of frames that the file announces: an estimate in some containers, 0 in others."""
    if stream.frames:
        return int(stream.frames)
    if container.duration is None or (rate_hz := _rate_hz(stream)) is None:
        return 0
    return int(container.duration / 1_000_000 * rate_hz)


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise JepaExportError(f"{path}: contains no video stream", code="data.not_a_video")
    return container.streams.video[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    av = _pyav()
    # Metadata may not be UTF-8: PyAV 19 always ignores errors, earlier versions only with this option.
    lenient = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    try:
        with av.open(str(path), **lenient) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise JepaExportError(
            f"{path}: cannot be read ({error.strerror}): not a video, truncated, or damaged; copy it again, "
            "or leave it out",
            code="data.video_damaged",
        ) from error


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise JepaExportError(
            "videos: PyAV is not installed; run pip install 'jepa-edge[export]'", code="data.missing_package"
        ) from None
    return av
