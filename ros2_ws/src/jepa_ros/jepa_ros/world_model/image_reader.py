"""Images out of messages: what may enter, and how it becomes RGB."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from jepa_ros.world_model.image_intake import Intake
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.conversion import image_from_message

# A camera that has sent no fit raw image for so long sends none.
_RAW_IS_GONE_S = 1.0


class ImageReader:
    """Reads a stream of images; those that are unfit are counted and left out.

    Args:
        clock: seconds.

    Attributes:
        accepted: how many images were fit.
        last: the last refusal.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.accepted = 0
        self.last = ""
        self._intake = Intake()
        self._clock = clock
        self._raw_at = -_RAW_IS_GONE_S

    @property
    def refused(self) -> Counter[str]:
        """How many images were refused, by reason."""
        return self._intake.refused

    def wants(self, message: Image | CompressedImage) -> bool:
        """Whether it is to be read: drivers send each image raw and compressed, and while raw ones are fit
        the others are the same."""
        return isinstance(message, Image) or self._clock() - self._raw_at >= _RAW_IS_GONE_S

    def read(self, message: Image | CompressedImage) -> NDArray[np.uint8] | None:
        """The image as uint8 [h, w, 3] RGB, or None if it was refused."""
        stamp = message.header.stamp
        height, width = (message.height, message.width) if isinstance(message, Image) else (1, 1)
        refusal = self._intake.check(
            height=height, width=width, data_bytes=len(message.data), sec=stamp.sec, nanosec=stamp.nanosec
        )
        rgb: NDArray[np.uint8] | None = None
        if refusal is None:
            try:
                rgb = image_from_message(message)
                refusal = self._intake.check_size(height=rgb.shape[0], width=rgb.shape[1])
            except FrameError as error:
                refusal = self._intake.count("bad_image", str(error))
        if refusal is not None:
            self.last = f"{refusal.reason}: {refusal.detail}"
            return None
        self.accepted += 1
        if isinstance(message, Image):
            self._raw_at = self._clock()
        return rgb
