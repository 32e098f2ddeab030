"""Memory layout of raw images, and the steps of resizing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jepa_runtime.errors import FrameError


@dataclass(frozen=True)
class Encoding:
    """Represent the layout of an image encoding.

    Attributes:
        pixel_bytes: Bytes from one pixel to the next.
        to_rgb: Name of the OpenCV conversion code; None: the image is RGB.
        sample_bytes: Bytes per sample. Of 16-bit samples the upper byte is used.
        paired: Whether two adjacent pixels share their color (YUV, BT.601, limited range).
        planar: Whether two rows also share their color, in a plane below the luma plane (4:2:0).
    """

    pixel_bytes: int
    to_rgb: str | None = None
    sample_bytes: int = 1
    paired: bool = False
    planar: bool = False


_UYVY = Encoding(2, "COLOR_YUV2RGB_UYVY", paired=True)
_YUYV = Encoding(2, "COLOR_YUV2RGB_YUY2", paired=True)

# Keyed by ROS name (sensor_msgs/image_encodings; nv12 is NVIDIA's).
ENCODINGS = {
    "rgb8": Encoding(3),
    "bgr8": Encoding(3, "COLOR_BGR2RGB"),
    "rgba8": Encoding(4, "COLOR_RGBA2RGB"),
    "bgra8": Encoding(4, "COLOR_BGRA2RGB"),
    "mono8": Encoding(1, "COLOR_GRAY2RGB"),
    "bayer_rggb8": Encoding(1, "COLOR_BayerRGGB2RGB"),
    "bayer_bggr8": Encoding(1, "COLOR_BayerBGGR2RGB"),
    "bayer_gbrg8": Encoding(1, "COLOR_BayerGBRG2RGB"),
    "bayer_grbg8": Encoding(1, "COLOR_BayerGRBG2RGB"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(1, "COLOR_YUV2RGB_NV12", paired=True, planar=True),
    "nv21": Encoding(1, "COLOR_YUV2RGB_NV21", paired=True, planar=True),
}
ENCODINGS |= {
    f"{name[:-1]}16": replace(encoding, pixel_bytes=2 * encoding.pixel_bytes, sample_bytes=2)
    for name, encoding in ENCODINGS.items()
    if name.endswith("8")
}


@dataclass(frozen=True)
class RawLayout:
    """Represent the layout of a raw image, as in sensor_msgs/Image.

    Attributes:
        encoding: One of :data:`ENCODINGS`.
        width: Width in pixels.
        height: Height in pixels.
        step: Bytes from one row to the next, including padding; None: no padding.

    Raises:
        FrameError: The encoding is not supported, the image has no pixels, a side is odd where pixels share
            their color, or rows are shorter than the width requires.
    """

    encoding: str
    width: int
    height: int
    step: int | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise FrameError(
                f"encoding {self.encoding!r} is not supported; supported are {', '.join(ENCODINGS)}",
                code="frame.encoding_unsupported",
            )
        if self.width < 1 or self.height < 1:
            raise FrameError(f"image of {self.width} x {self.height} has no pixels", code="frame.empty")
        if ENCODINGS[self.encoding].paired and self.width % 2:
            raise FrameError(
                f"{self.encoding} image must have an even width, has {self.width}", code="frame.size_invalid"
            )
        if ENCODINGS[self.encoding].planar and self.height % 2:
            raise FrameError(
                f"{self.encoding} image must have an even height, has {self.height}",
                code="frame.size_invalid",
            )
        if self.stride < self.row_bytes:
            raise FrameError(
                f"{self.encoding} image of width {self.width} needs rows of {self.row_bytes} bytes, "
                f"step is {self.stride}",
                code="frame.size_invalid",
            )

    @property
    def rows(self) -> int:
        """Rows in memory, including the color plane."""
        return self.height * 3 // 2 if ENCODINGS[self.encoding].planar else self.height

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without padding."""
        return self.width * ENCODINGS[self.encoding].pixel_bytes

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return self.row_bytes if self.step is None else self.step

    @property
    def needed_bytes(self) -> int:
        """Bytes from the first pixel to the last, without the padding of the last row."""
        return self.stride * (self.rows - 1) + self.row_bytes

    def check_size(self, size: int) -> None:
        """Check that ``size`` bytes hold the image.

        Raises:
            FrameError: There are too few.
        """
        if size < self.needed_bytes:
            raise FrameError(
                f"{self.encoding} image of {self.width} x {self.height} needs {self.needed_bytes} bytes, "
                f"has {size}",
                code="frame.too_short",
            )


@dataclass(frozen=True)
class Scaling:
    """Represent the two steps of resizing: averages over squares of pixels, then the remaining ratio.

    Attributes:
        factor: The side of the squares, a divisor of both sides of the image; 1: no first step.
        averaged: Whether the second step averages areas, for anti-aliasing; otherwise it is bilinear.
    """

    factor: int
    averaged: bool


def plan_scaling(height: int, width: int, out_height: int, out_width: int) -> Scaling:
    """Return the steps that resize ``height`` x ``width`` to ``out_height`` x ``out_width`` pixels.

    If the image is larger on both axes, areas are averaged: first those of a whole number of pixels, which is
    fast; a remaining reduction by less than one half is interpolated (640 x 480 to 224 x 224 in a sixth of
    the time). Otherwise the image is interpolated.
    """
    if height < out_height or width < out_width:
        return Scaling(1, averaged=False)
    limit = min(height // out_height, width // out_width)
    factor = next(by for by in range(limit, 0, -1) if height % by == width % by == 0)
    halved = height // factor >= 2 * out_height or width // factor >= 2 * out_width
    return Scaling(factor, averaged=factor == 1 or halved)
