"""Video files, decoded by PyAV: with the stamps in the file, from any moment on, and AV1 too, in which
LeRobot writes, and which the FFmpeg in OpenCV's wheels cannot decode.
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
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.commands import Commands

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts"})
# Containers estimate their number of frames from duration and rate; a real truncation loses more than this.
_COUNT_SLACK = 0.02
_COUNT_SLACK_FRAMES = 3
_EARLY_S = 1e-3


class VideoOrigin:
    """A video file; nothing is known of actions. Stamps begin at 0."""

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
    """The frames of a video from ``start_s`` on: stamp in the file [ns] and image.

    Raises:
        JepaExportError: PyAV is missing, or the file is not a video, has no frames, is damaged, or, read from
            its beginning, ends clearly before the frame that it says is its last.
    """
    av = _pyav()
    count = 0
    try:
        with _opened(av, path) as container:
            if not container.streams.video:
                raise JepaExportError(f"{path}: there is no video in this file")
            stream = container.streams.video[0]
            if start_s > 0:
                # To the key frame before; what lies between is decoded and passed over.
                container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
            announced = _announced(stream, container)
            # A frame that begins just before has the stamp that was asked for, rounded.
            first_s = start_s - 0.5 / float(stream.average_rate or 1000) if start_s > 0 else None
            for frame in container.decode(stream):
                stamp_s = _stamp_s(frame, path)
                if first_s is not None and stamp_s < first_s:
                    continue
                if frame.is_corrupt:
                    raise JepaExportError(
                        f"{path}: is damaged after {count} frames; copy it again, or leave it out"
                    )
                yield round(stamp_s * 1_000_000_000), _upright(frame)
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise JepaExportError(
            f"{path}: cannot be decoded after {count} frames ({error.strerror}): it is no video, cut off, or "
            "damaged; copy it again, or leave it out"
        ) from error
    if count == 0:
        raise JepaExportError(f"{path}: not one frame could be decoded from {start_s:g} s on")
    if start_s == 0 and announced - count > max(_COUNT_SLACK_FRAMES, _COUNT_SLACK * announced):
        raise JepaExportError(
            f"{path}: ended after {count} of {announced} frames: it is cut off or damaged; copy it again, or "
            "leave it out"
        )


def stretch_hash(path: Path, start_s: float, end_s: float) -> str:
    """What the frames of a video that begin from ``start_s`` until ``end_s`` follow from: it stays when
    others are added behind. Nothing is decoded.

    Raises:
        JepaExportError: as of :func:`decoded`.
    """
    header, shown_s, keys, hashes = _packets(path, file_hash(path))
    # A frame that begins just before has the stamp that was asked for, rounded.
    first = np.flatnonzero(keys & (shown_s <= start_s + _EARLY_S))[-1:].sum()
    after = np.flatnonzero(shown_s < end_s)[-1:].sum() + 1
    found = hashlib.sha256(header)
    for shown, content in zip(shown_s[first:after], hashes[first:after], strict=True):
        found.update(f"{shown:.6f}".encode() + content)
    return found.hexdigest()


@lru_cache(maxsize=4)
def _packets(path: Path, content: str) -> tuple[bytes, NDArray[np.float64], NDArray[np.bool_], list[bytes]]:
    """What all frames of a video are decoded with, and of its packets, as they come, when each is shown [s],
    whether decoding can begin there, and a hash."""
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
            f"{path}: cannot be read ({error.strerror}): it is no video, cut off, or damaged; copy it again, "
            "or leave it out"
        ) from error
    return header, np.array(shown_s, float), np.array(keys, bool), hashes


def _upright(frame: Any) -> Image:
    """As it is shown: a telephone held upright films lying images, and says so."""
    image: Image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return np.ascontiguousarray(image)


def _stamp_s(frame: Any, path: Path) -> Fraction:
    if frame.pts is None:
        raise JepaExportError(f"{path}: its frames have no time stamps: re-encode it")
    return Fraction(frame.pts * frame.time_base)


def _announced(stream: Any, container: Any) -> int:
    """How many frames the file says it has: an estimate in some containers, 0 in others."""
    if stream.frames:
        return int(stream.frames)
    if container.duration is None or stream.average_rate is None:
        return 0
    return int(container.duration / 1_000_000 * stream.average_rate)


def _opened(av: Any, path: Path) -> Any:
    # Metadata need not be UTF-8: PyAV 19 always reads it, earlier versions only when asked to.
    lenient = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    return av.open(str(path), **lenient)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise JepaExportError(
            "reading videos needs PyAV: pip install 'jepa-edge[export]' (package av)"
        ) from None
    return av
