"""Source of the frames of a camera, through Video4Linux 2."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame, Image, PassiveSource
from jepa_runtime.util.opencv import cv2

_LOG = logging.getLogger(__name__)
# Single damaged frames are normal; this many in a row mean that the camera does not work.
_MAX_DAMAGED = 30


class CameraSource(PassiveSource):
    """The frames of a camera, stamped with the wall clock on arrival.

    Args:
        device: ``/dev/videoN`` or N.
        rate_hz: The requested rate. The camera may choose another, which :attr:`rate_hz` then reports.

    Raises:
        SourceError: The device does not exist, cannot be opened, or is not a camera.
    """

    live = True

    def __init__(self, device: str, *, rate_hz: float | None = None) -> None:
        path = Path(f"/dev/video{int(device)}" if device.isdigit() else device)
        self.name = str(path)
        if not path.exists():
            present = ", ".join(sorted(str(found) for found in path.parent.glob("video*"))) or "none"
            raise SourceError(
                f"{path}: no such camera; present cameras: {present}", code="source.camera_not_found"
            )
        self._capture = cv2.VideoCapture(self.name, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(
                f"{path}: cannot be opened as a camera: another process uses it, or this user has no "
                "permission (add the user to the group video)",
                code="source.camera_not_opened",
            )
        # With one buffer, frames are as recent as the driver allows.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if rate_hz is not None:
            self._capture.set(cv2.CAP_PROP_FPS, rate_hz)
        chosen_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz: float | None = chosen_hz if chosen_hz > 0 else None

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the camera disappears; damaged frames are skipped.

        Raises:
            SourceError: The camera stopped delivering frames, or all its frames are damaged.
        """
        sequence = damaged = 0
        while damaged < _MAX_DAMAGED:
            if not self._capture.grab():
                raise SourceError(
                    f"{self.name}: no frame after {sequence} frames: the camera was unplugged, or the driver "
                    "timed out",
                    code="source.camera_lost",
                )
            stamp_ns = time.time_ns()
            read, image = self._capture.retrieve()
            if not read or image is None:
                damaged += 1
                _LOG.warning("%s: skipped a damaged frame", self.name)
                continue
            damaged = 0
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            yield Frame(rgb, stamp_ns, Path(self.name).name, sequence)
            sequence += 1
        raise SourceError(
            f"{self.name}: the last {damaged} frames are damaged: check cable and camera",
            code="source.camera_damaged_frames",
        )

    def close(self) -> None:
        """Release the device."""
        self._capture.release()
