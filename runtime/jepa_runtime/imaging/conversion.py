"""From what cameras send to what a model takes: uint8 RGB of the model's size."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.pixel_formats import ENCODINGS, RawLayout, scaling
from jepa_runtime.util.opencv import cv2

Image = NDArray[np.uint8]

# Of a JPEG and a PNG, the first bytes, and where the two sides of the image are told.
_SIDES = {
    b"\xff\xd8\xff": re.compile(
        rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\x00[\x0b\x0e\x11\x14].(..)(..)[\x01-\x04]", re.DOTALL
    ),
    b"\x89PNG\r\n\x1a\n": re.compile(rb"\A.{12}IHDR(.{4})(.{4})", re.DOTALL),
}
# Twice what 8K has. Some hundred bytes can claim gigabytes, all of which would be filled.
_MOST_PIXELS = 1 << 26


def to_rgb(
    data: Any, encoding: str, width: int, height: int, step: int | None = None, *, big_endian: bool = False
) -> Image:
    """The pixels of a raw image as uint8 [height, width, 3] RGB.

    Args:
        data: anything with a buffer of bytes (bytes, array, ndarray), rows from top to bottom. An ``rgb8``
            image is returned as a view of it.
        encoding: as in sensor_msgs/Image, one of :data:`jepa_runtime.imaging.pixel_formats.ENCODINGS`.
        width, height: pixels.
        step: bytes from one row to the next, padding included; None: none.
        big_endian: of samples of 16 bits the upper byte comes first.

    Raises:
        FrameError: another encoding, no pixels, an odd side where pixels share their colour, rows shorter
            than the width needs, or too few bytes.
    """
    layout = RawLayout(encoding, width, height, step)
    pixels = np.frombuffer(data, np.uint8)
    layout.check_size(pixels.size)
    kind = ENCODINGS[encoding]
    image: Image = np.ndarray(
        (layout.rows, width, kind.pixel_bytes // kind.sample_bytes),
        np.uint8,
        pixels,
        offset=0 if big_endian else kind.sample_bytes - 1,
        strides=(layout.stride, kind.pixel_bytes, kind.sample_bytes),
    )
    return image if kind.to_rgb is None else cast(Image, cv2.cvtColor(image, getattr(cv2, kind.to_rgb)))


def decode(data: Any, encoding: str = "") -> Image:
    """The pixels of a JPEG or PNG file as uint8 [h, w, 3] RGB.

    Args:
        data: anything with a buffer of bytes.
        encoding: what was compressed, where that matters: image_transport takes a Bayer pattern as if it were
            grey.

    Raises:
        FrameError: neither of the two, larger than any camera's, or damaged.
    """
    content = np.frombuffer(data, np.uint8)
    head = content[:8].tobytes()
    sides = next((sides for start, sides in _SIDES.items() if head.startswith(start)), None)
    if sides is None:
        raise FrameError(f"compressed image starts with {head.hex()}, which is neither JPEG nor PNG")
    for one, other in sides.findall(content.data):
        if int.from_bytes(one, "big") * int.from_bytes(other, "big") > _MOST_PIXELS:
            raise FrameError(
                f"compressed image of {content.size} bytes claims more than {_MOST_PIXELS} pixels"
            )
    pattern = ENCODINGS[encoding].to_rgb if encoding.startswith("bayer_") and encoding in ENCODINGS else None
    channels = cv2.IMREAD_COLOR if pattern is None else cv2.IMREAD_ANYCOLOR
    try:
        # A camera's orientation tag must not turn the image between frames.
        image = cv2.imdecode(content, channels | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise FrameError(
            f"compressed image of {content.size} bytes cannot be decoded: {error.err}"
        ) from error
    if image is None:
        raise FrameError(f"compressed image of {content.size} bytes cannot be decoded: it is damaged")
    conversion = "COLOR_BGR2RGB" if pattern is None or image.ndim == 3 else pattern
    return cast(Image, cv2.cvtColor(image, getattr(cv2, conversion)))


def image_in(message: Any) -> Image:
    """The pixels of a sensor_msgs/Image or CompressedImage as uint8 [h, w, 3] RGB.

    Raises:
        FrameError: they cannot be used.
    """
    if hasattr(message, "format"):
        return decode(message.data, message.format.partition(";")[0])
    return to_rgb(
        message.data,
        message.encoding,
        message.width,
        message.height,
        message.step,
        big_endian=bool(message.is_bigendian),
    )


def to_jpeg(image: Image, quality: int = 90) -> bytes:
    """``image`` (uint8 [h, w, 3] RGB) as a JPEG file.

    Raises:
        FrameError: it has no pixels.
    """
    if not image.size:
        raise FrameError("an image without pixels cannot be drawn")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def to_png(image: Image) -> bytes:
    """``image`` (uint8 [h, w, 3] RGB) as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def image_uri(data: bytes, kind: str = "jpeg") -> str:
    """An image file as part of a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def check_rgb(image: Image) -> None:
    """Check that an array is an RGB image.

    Raises:
        FrameError: it is not uint8 [h, w, 3], or has no pixels.
    """
    if not isinstance(image, np.ndarray):
        raise FrameError(f"frame must be uint8 [height, width, 3] RGB, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FrameError(f"frame must be uint8 [height, width, 3] RGB, got {image.dtype} {list(image.shape)}")


def fit(image: Image, out: Image) -> None:
    """Scale an image into ``out``, each axis by itself (an image of another aspect ratio is stretched).

    The steps are those of :func:`jepa_runtime.imaging.pixel_formats.scaling`.

    Args:
        image: uint8 [h, w, 3].
        out: uint8 [height, width, 3], C order; overwritten.

    Raises:
        FrameError: ``image`` is none, or has no pixels.
    """
    check_rgb(image)
    if image.shape == out.shape:
        np.copyto(out, image)
        return
    height, width = image.shape[:2]
    steps = scaling(height, width, *out.shape[:2])
    if steps.factor > 1:
        size = (width // steps.factor, height // steps.factor)
        image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    last = cv2.INTER_AREA if steps.averaged else cv2.INTER_LINEAR
    cv2.resize(image, out.shape[1::-1], dst=out, interpolation=last)
