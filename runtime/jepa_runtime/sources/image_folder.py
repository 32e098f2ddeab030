"""A folder of images."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.sources.base import Frame, PassiveSource

_LOG = logging.getLogger(__name__)
SUFFIXES = {".png", ".jpg", ".jpeg"}
_DEFAULT_RATE_HZ = 30.0


class ImageFolderSource(PassiveSource):
    """The PNG and JPEG files of a folder in the order of their names, numbers counted as numbers (2 before
    10).

    Args:
        path: the folder.
        rate_hz: of the stamps; 30 if left out.
        start_ns: stamp of the first frame (default: now).

    Raises:
        SourceError: no such folder, or no images in it.
    """

    def __init__(self, path: Path, *, rate_hz: float | None = None, start_ns: int | None = None) -> None:
        if not path.is_dir():
            raise SourceError(f"{path}: no such folder")
        self.name = str(path)
        self.rate_hz: float | None = rate_hz or _DEFAULT_RATE_HZ
        self._period_ns = 1e9 / self.rate_hz
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        files = [entry for entry in path.iterdir() if entry.is_file()]
        self._files = sorted((entry for entry in files if entry.suffix.lower() in SUFFIXES), key=_natural)
        others = sorted(entry.name for entry in files if entry.suffix.lower() not in SUFFIXES)
        if not self._files:
            raise SourceError(f"{path}: no PNG or JPEG image in this folder")
        if others:
            _LOG.warning(
                "%s: %d files are not PNG or JPEG and are left out: %s",
                path,
                len(others),
                ", ".join(others[:5]),
            )

    def frames(self) -> Iterator[Frame]:
        """The images.

        Raises:
            SourceError: one of them cannot be decoded.
        """
        for sequence, file in enumerate(self._files):
            try:
                rgb = decode(file.read_bytes())
            except (OSError, FrameError) as error:
                raise SourceError(
                    f"{file}: not a readable image (damaged, cut off, or wrongly named)"
                ) from error
            yield Frame(
                rgb, self._start_ns + round(sequence * self._period_ns), Path(self.name).name, sequence
            )


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
