"""A camera through Video4Linux 2."""

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
# Some frames of a camera are damaged on their way; one of which all are does not work.
_MOST_SPOILT = 30


class CameraSource(PassiveSource):
    """Frames as the camera delivers them, stamped with the wall clock when they arrive.

    Args:
        device: ``/dev/videoN`` or N.
        rate_hz: asked of the camera, which may choose another: :attr:`rate_hz` then says what it chose.

    Raises:
        SourceError: there is no such device, it may not be opened, or it is no camera.
    """

    live = True

    def __init__(self, device: str, *, rate_hz: float | None = None) -> None:
        path = Path(f"/dev/video{int(device)}" if device.isdigit() else device)
        self.name = str(path)
        if not path.exists():
            present = ", ".join(sorted(str(found) for found in path.parent.glob("video*"))) or "none"
            raise SourceError(f"{path}: no such camera; present: {present}")
        self._capture = cv2.VideoCapture(self.name, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(
                f"{path}: cannot be opened as a camera: another program holds it, or this user may not "
                "read it (add the user to the group video)"
            )
        # One buffer, so that a frame is as fresh as the driver allows.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if rate_hz is not None:
            self._capture.set(cv2.CAP_PROP_FPS, rate_hz)
        chosen_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz: float | None = chosen_hz if chosen_hz > 0 else None

    def frames(self) -> Iterator[Frame]:
        """Frames until the camera goes away; one that cannot be decoded is left out.

        Raises:
            SourceError: the camera stopped delivering, or delivers nothing else.
        """
        sequence = spoilt = 0
        while spoilt < _MOST_SPOILT:
            if not self._capture.grab():
                raise SourceError(
                    f"{self.name}: no frame came after {sequence}: unplugged, or the driver timed out"
                )
            stamp_ns = time.time_ns()
            read, image = self._capture.retrieve()
            if not read or image is None:
                spoilt += 1
                _LOG.warning("%s: a frame cannot be decoded and is left out", self.name)
                continue
            spoilt = 0
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            yield Frame(rgb, stamp_ns, Path(self.name).name, sequence)
            sequence += 1
        raise SourceError(f"{self.name}: none of the last {spoilt} frames can be decoded")

    def close(self) -> None:
        """Release the device."""
        self._capture.release()
