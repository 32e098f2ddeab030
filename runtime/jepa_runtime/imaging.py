"""From what cameras send to what a model takes: uint8 RGB of the model's size."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError

Image = NDArray[np.uint8]

# ROS names (sensor_msgs/image_encodings) -> bytes a pixel, and the conversion to RGB (None: it is RGB).
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}


def to_rgb(data: Any, encoding: str, width: int, height: int, step: int | None = None) -> Image:
    """The pixels of a raw image as uint8 [height, width, 3] RGB.

    Args:
        data: anything with a buffer of bytes (bytes, array, ndarray), rows from top to bottom. An ``rgb8``
            image is returned as a view of it.
        encoding: as in sensor_msgs/Image: rgb8, bgr8, rgba8, bgra8, mono8, yuv422 (UYVY, also ``uyvy``) or
            yuv422_yuy2 (YUYV, also ``yuyv``).
        width, height: pixels.
        step: bytes from one row to the next, padding included; None: none.

    Raises:
        FrameError: another encoding, no pixels, rows shorter than the width needs, or too few bytes.
    """
    if encoding not in _ENCODINGS:
        raise FrameError(f"encoding {encoding!r} is not supported; supported are {', '.join(_ENCODINGS)}")
    if width < 1 or height < 1:
        raise FrameError(f"image of {width} x {height} has no pixels")
    channels, conversion = _ENCODINGS[encoding]
    if channels == 2 and width % 2:
        raise FrameError(f"{encoding} image must have an even width, has {width}")
    row = width * channels
    step = row if step is None else step
    if step < row:
        raise FrameError(f"{encoding} image of width {width} needs rows of {row} bytes, step is {step}")
    pixels = np.frombuffer(data, np.uint8)
    needed = step * (height - 1) + row
    if pixels.size < needed:
        raise FrameError(f"{encoding} image of {width} x {height} needs {needed} bytes, has {pixels.size}")
    image: Image = np.ndarray((height, width, channels), np.uint8, pixels, strides=(step, channels, 1))
    return image if conversion is None else cast(Image, cv2.cvtColor(image, conversion))


def decode(data: Any) -> Image:
    """The pixels of a JPEG or PNG file as uint8 [h, w, 3] RGB.

    Args:
        data: anything with a buffer of bytes.

    Raises:
        FrameError: neither of the two, or damaged.
    """
    content = np.frombuffer(data, np.uint8)
    head = content[:8].tobytes()
    if not any(head.startswith(signature) for signature in _SIGNATURES.values()):
        raise FrameError(f"compressed image starts with {head.hex()}, which is neither JPEG nor PNG")
    try:
        # A camera's orientation tag must not turn the image between frames.
        image = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise FrameError(
            f"compressed image of {content.size} bytes cannot be decoded: {error.err}"
        ) from error
    if image is None:
        raise FrameError(f"compressed image of {content.size} bytes cannot be decoded: it is damaged")
    return cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def fit(image: Image, out: Image) -> None:
    """Scale an image into ``out``, each axis by itself (an image of another aspect ratio is stretched).

    Where the image is larger on both axes, areas are averaged, as anti-aliasing demands: those of a whole
    number of pixels first, which is quick, and what then is less than halved is interpolated (640 x 480 to
    224 x 224 in a sixth of the time). Else bilinear.

    Args:
        image: uint8 [h, w, 3].
        out: uint8 [height, width, 3], C order; overwritten.

    Raises:
        FrameError: ``image`` is none, or has no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FrameError(f"frame must be uint8 [height, width, 3] RGB, got {image.dtype} {list(image.shape)}")
    if image.shape == out.shape:
        np.copyto(out, image)
        return
    size = out.shape[1::-1]
    if image.shape[0] < out.shape[0] or image.shape[1] < out.shape[1]:
        cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)
        return
    height, width = image.shape[:2]
    most = min(height // out.shape[0], width // out.shape[1])
    factor = next(by for by in range(most, 0, -1) if height % by == width % by == 0)
    if factor > 1:
        image = cast(
            Image, cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
        )
    halved = image.shape[0] >= 2 * out.shape[0] or image.shape[1] >= 2 * out.shape[1]
    near = cv2.INTER_LINEAR if factor > 1 and not halved else cv2.INTER_AREA
    cv2.resize(image, size, dst=out, interpolation=near)
