"""Source of the images of a folder."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.sources.base import Frame, Image, PassiveSource

_LOG = logging.getLogger(__name__)
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
"""The suffixes of image files."""
_DEFAULT_RATE_HZ = 30.0
_LISTED = 20


class ImageFolderSource(PassiveSource):
    """The PNG and JPEG files of a folder in natural order of their names (2 before 10).

    Args:
        path: The folder.
        rate_hz: The rate of the stamps (default: 30).
        start_ns: The stamp of the first frame (default: now).

    Raises:
        SourceError: The folder does not exist, or has no images.
    """

    def __init__(self, path: Path, *, rate_hz: float | None = None, start_ns: int | None = None) -> None:
        if not path.is_dir():
            raise SourceError(f"{path}: no such folder", code="source.not_found")
        self.name = str(path)
        self.rate_hz: float | None = rate_hz or _DEFAULT_RATE_HZ
        self._period_ns = 1e9 / self.rate_hz
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        files = [entry for entry in path.iterdir() if entry.is_file()]
        self._files = sorted(
            (entry for entry in files if entry.suffix.lower() in IMAGE_SUFFIXES), key=_natural
        )
        others = sorted(entry.name for entry in files if entry.suffix.lower() not in IMAGE_SUFFIXES)
        if not self._files:
            raise SourceError(f"{path}: no PNG or JPEG images in this folder", code="source.empty")
        if others:
            _LOG.warning(
                "%s: skipped %d files that are not PNG or JPEG: %s",
                path,
                len(others),
                ", ".join(others[:5]),
            )

    def frames(self) -> Iterator[Frame]:
        """Yield the images.

        Raises:
            SourceError: An image cannot be decoded; the message names all such images.
        """
        for sequence, file in enumerate(self._files):
            rgb = _decoded(file)
            if rgb is None:
                bad = [other.name for other in self._files[sequence:] if _decoded(other) is None]
                raise SourceError(
                    f"{self.name}: {len(bad)} of {len(self._files)} images are damaged, truncated, or have "
                    f"the wrong suffix: {', '.join(bad[:_LISTED])}{', …' if len(bad) > _LISTED else ''}; "
                    "replace or remove them",
                    code="source.image_invalid",
                )
            yield Frame(
                rgb, self._start_ns + round(sequence * self._period_ns), Path(self.name).name, sequence
            )


def _decoded(file: Path) -> Image | None:
    try:
        return decode(file.read_bytes())
    except (OSError, FrameError):
        return None


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
