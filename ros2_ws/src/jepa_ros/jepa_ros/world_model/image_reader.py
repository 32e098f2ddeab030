"""Validation of image messages and their conversion to RGB."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from jepa_ros.world_model.image_validator import ImageValidator
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging import image_from_message

# A camera without a valid raw image for this long counts as one that sends only compressed images.
_RAW_TIMEOUT_S = 1.0


class ImageReader:
    """Read a stream of images. Invalid images are counted and skipped.

    Args:
        clock: Monotonic clock [s].

    Attributes:
        accepted: Number of valid images.
        last_rejection: Description of the last rejected image.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.accepted = 0
        self.last_rejection = ""
        self._validator = ImageValidator()
        self._clock = clock
        self._raw_at = -_RAW_TIMEOUT_S
        # Stamp of the last valid compressed image: its raw twin may arrive after it.
        self._compressed_stamp: tuple[int, int] | None = None

    @property
    def rejected(self) -> Counter[str]:
        """Number of rejected images by reason."""
        return self._validator.rejected

    def needs(self, message: Image | CompressedImage) -> bool:
        """Return whether to read ``message``.

        Drivers send each image raw and compressed, in any order: compressed images are skipped while valid
        raw ones arrive, and so is a raw image whose compressed twin was read.
        """
        if isinstance(message, Image):
            return _stamp(message) != self._compressed_stamp
        return self._clock() - self._raw_at >= _RAW_TIMEOUT_S

    def read(self, message: Image | CompressedImage) -> NDArray[np.uint8] | None:
        """Return the image as uint8 [h, w, 3] RGB, or None if it is rejected."""
        stamp = message.header.stamp
        height, width = (message.height, message.width) if isinstance(message, Image) else (1, 1)
        rejection = self._validator.check_header(
            height=height, width=width, data_bytes=len(message.data), sec=stamp.sec, nanosec=stamp.nanosec
        )
        rgb: NDArray[np.uint8] | None = None
        if rejection is None:
            try:
                rgb = image_from_message(message)
                rejection = self._validator.check_size(height=rgb.shape[0], width=rgb.shape[1])
            except FrameError as error:
                rejection = self._validator.reject("bad_image", str(error))
        if rejection is not None:
            self.last_rejection = f"{rejection.reason}: {rejection.detail}"
            return None
        self.accepted += 1
        if isinstance(message, Image):
            self._raw_at = self._clock()
        else:
            self._compressed_stamp = _stamp(message)
        return rgb


def _stamp(message: Image | CompressedImage) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec
