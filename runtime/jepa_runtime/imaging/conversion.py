"""Conversion of camera images to uint8 RGB of the size that a model takes."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.pixel_formats import ENCODINGS, RawLayout, plan_scaling
from jepa_runtime.util.opencv import cv2

Image = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""


class SupportsArray(Protocol):
    """An object that NumPy converts by ``__array__``, such as a torch tensor."""

    def __array__(self) -> NDArray[Any]:
        """Return the object as an array."""


class SupportsArrayInterface(Protocol):
    """An object that NumPy converts by ``__array_interface__``, such as a PIL image."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The description of the array."""


ImageLike = Image | SupportsArray | SupportsArrayInterface
"""An image, or an object that NumPy converts to one."""


# The first bytes of a JPEG and of a PNG, and where the file states the two sides of the image.
_SIDES = {
    b"\xff\xd8\xff": re.compile(
        rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\x00[\x0b\x0e\x11\x14].(..)(..)[\x01-\x04]", re.DOTALL
    ),
    b"\x89PNG\r\n\x1a\n": re.compile(rb"\A.{12}IHDR(.{4})(.{4})", re.DOTALL),
}
# Twice the pixels of 8K. A file of some hundred bytes can claim gigabytes, which would be allocated.
_MAX_PIXELS = 1 << 26


def to_rgb(
    data: Any, encoding: str, width: int, height: int, step: int | None = None, *, big_endian: bool = False
) -> Image:
    """Convert a raw image to uint8 [height, width, 3] RGB.

    Args:
        data: An object with a buffer of bytes (bytes, array, ndarray), rows from top to bottom. For ``rgb8``
            the result is a view of it.
        encoding: One of :data:`jepa_runtime.imaging.pixel_formats.ENCODINGS`, as in sensor_msgs/Image.
        width: Width in pixels.
        height: Height in pixels.
        step: Bytes from one row to the next, including padding; None: no padding.
        big_endian: Whether 16-bit samples have the upper byte first.

    Raises:
        FrameError: The encoding is not supported, the image has no pixels, a side is odd where pixels share
            their color, rows are shorter than the width requires, or there are too few bytes.
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
    """Decode a JPEG or PNG file to uint8 [h, w, 3] RGB.

    Args:
        data: An object with a buffer of bytes.
        encoding: The encoding of the compressed image. It matters for Bayer patterns, which image_transport
            compresses as grayscale.

    Raises:
        FrameError: The file is of another type, larger than the image of any camera, or damaged.
    """
    content = np.frombuffer(data, np.uint8)
    head = content[:8].tobytes()
    sides = next((sides for start, sides in _SIDES.items() if head.startswith(start)), None)
    if sides is None:
        raise FrameError(
            f"compressed image starts with {head.hex()}, which is neither JPEG nor PNG",
            code="frame.format_unsupported",
        )
    for one, other in sides.findall(content.data):
        if int.from_bytes(one, "big") * int.from_bytes(other, "big") > _MAX_PIXELS:
            raise FrameError(
                f"compressed image of {content.size} bytes claims more than {_MAX_PIXELS} pixels",
                code="frame.too_large",
            )
    pattern = ENCODINGS[encoding].to_rgb if encoding.startswith("bayer_") and encoding in ENCODINGS else None
    channels = cv2.IMREAD_COLOR if pattern is None else cv2.IMREAD_ANYCOLOR
    try:
        # A camera's orientation tag must not turn the image between frames.
        image = cv2.imdecode(content, channels | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise FrameError(
            f"compressed image of {content.size} bytes cannot be decoded: {error.err}", code="frame.damaged"
        ) from error
    if image is None:
        raise FrameError(
            f"compressed image of {content.size} bytes cannot be decoded: it is damaged", code="frame.damaged"
        )
    conversion = "COLOR_BGR2RGB" if pattern is None or image.ndim == 3 else pattern
    return cast(Image, cv2.cvtColor(image, getattr(cv2, conversion)))


def image_from_message(message: Any) -> Image:
    """Convert a sensor_msgs/Image or CompressedImage to uint8 [h, w, 3] RGB.

    Raises:
        FrameError: The image cannot be used.
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
    """Encode ``image`` (uint8 [h, w, 3] RGB) as a JPEG file.

    Raises:
        FrameError: It has no pixels.
    """
    if not image.size:
        raise FrameError("an image without pixels cannot be encoded", code="frame.empty")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def to_png(image: Image) -> bytes:
    """Encode ``image`` (uint8 [h, w, 3] RGB) as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """Return an image file as a data URI, for a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def as_array(image: Any) -> Any:
    """Convert an object that supports the array protocols of NumPy; other objects are returned unchanged.

    Raises:
        FrameError: The object cannot be converted, such as a torch tensor on a GPU.
    """
    if isinstance(image, np.ndarray) or not (
        hasattr(image, "__array__") or hasattr(image, "__array_interface__")
    ):
        return image
    try:
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FrameError(
            f"{type(image).__name__} cannot be converted to an array: {error}", code="frame.not_rgb"
        ) from error


def check_rgb(image: Image) -> None:
    """Check that an array is an RGB image.

    Raises:
        FrameError: It is not uint8 [h, w, 3], or has no pixels.
    """
    if not isinstance(image, np.ndarray):
        raise FrameError(
            f"frame must be uint8 [height, width, 3] RGB, got {type(image).__name__}", code="frame.not_rgb"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FrameError(
            f"frame must be uint8 [height, width, 3] RGB, got {image.dtype} {list(image.shape)}",
            code="frame.not_rgb",
        )


def resize_into(image: Image, out: Image) -> None:
    """Resize an image into ``out``, each axis separately (another aspect ratio is stretched).

    The steps are those of :func:`jepa_runtime.imaging.pixel_formats.plan_scaling`.

    Args:
        image: uint8 [h, w, 3].
        out: uint8 [height, width, 3], C order; it is overwritten.

    Raises:
        FrameError: ``image`` is not an RGB image, or has no pixels.
    """
    check_rgb(image)
    if image.shape == out.shape:
        np.copyto(out, image)
        return
    height, width = image.shape[:2]
    steps = plan_scaling(height, width, *out.shape[:2])
    if steps.factor > 1:
        size = (width // steps.factor, height // steps.factor)
        image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    last = cv2.INTER_AREA if steps.averaged else cv2.INTER_LINEAR
    cv2.resize(image, out.shape[1::-1], dst=out, interpolation=last)
