"""Raw images in memory: where the bytes of a pixel are, and the steps from an image to another size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jepa_runtime.errors import FrameError


@dataclass(frozen=True)
class Encoding:
    """How one kind of image is laid out.

    Attributes:
        pixel_bytes: bytes from one pixel to the next.
        to_rgb: name of OpenCV's conversion code; None: it is RGB.
        sample_bytes: of which its upper eight bits are taken where there are two.
        paired: two pixels share their colour (YUV, BT.601, limited range).
        planar: so do two rows, whose colours come in one below all brightness (4:2:0).
    """

    pixel_bytes: int
    to_rgb: str | None = None
    sample_bytes: int = 1
    paired: bool = False
    planar: bool = False


_UYVY = Encoding(2, "COLOR_YUV2RGB_UYVY", paired=True)
_YUYV = Encoding(2, "COLOR_YUV2RGB_YUY2", paired=True)

# By their ROS names (sensor_msgs/image_encodings; nv12 is NVIDIA's).
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
    """The layout of a raw image, as in sensor_msgs/Image.

    Attributes:
        encoding: one of :data:`ENCODINGS`.
        width, height: pixels.
        step: bytes from one row to the next, padding included; None: there is none.

    Raises:
        FrameError: another encoding, no pixels, an odd side where pixels share their colour, or rows shorter
            than the width needs.
    """

    encoding: str
    width: int
    height: int
    step: int | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise FrameError(
                f"encoding {self.encoding!r} is not supported; supported are {', '.join(ENCODINGS)}"
            )
        if self.width < 1 or self.height < 1:
            raise FrameError(f"image of {self.width} x {self.height} has no pixels")
        if ENCODINGS[self.encoding].paired and self.width % 2:
            raise FrameError(f"{self.encoding} image must have an even width, has {self.width}")
        if ENCODINGS[self.encoding].planar and self.height % 2:
            raise FrameError(f"{self.encoding} image must have an even height, has {self.height}")
        if self.stride < self.row_bytes:
            raise FrameError(
                f"{self.encoding} image of width {self.width} needs rows of {self.row_bytes} bytes, "
                f"step is {self.stride}"
            )

    @property
    def rows(self) -> int:
        """Rows in memory, those of colours included."""
        return self.height * 3 // 2 if ENCODINGS[self.encoding].planar else self.height

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without padding."""
        return self.width * ENCODINGS[self.encoding].pixel_bytes

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return self.row_bytes if self.step is None else self.step

    @property
    def needed_bytes(self) -> int:
        """Bytes from the first pixel to the last; the last row needs no padding."""
        return self.stride * (self.rows - 1) + self.row_bytes

    def check_size(self, size: int) -> None:
        """Check that ``size`` bytes hold the image.

        Raises:
            FrameError: they are too few.
        """
        if size < self.needed_bytes:
            raise FrameError(
                f"{self.encoding} image of {self.width} x {self.height} needs {self.needed_bytes} bytes, "
                f"has {size}"
            )


@dataclass(frozen=True)
class Scaling:
    """The two steps from an image to another size: averages over squares of pixels, and what then is left.

    Attributes:
        factor: the side of the squares, a divisor of both sides of the image; 1: there is no first step.
        averaged: whether the second step averages areas, as anti-aliasing demands; else it is bilinear.
    """

    factor: int
    averaged: bool


def scaling(height: int, width: int, out_height: int, out_width: int) -> Scaling:
    """How an image of ``height`` x ``width`` pixels gets ``out_height`` x ``out_width``, each axis by itself.

    Where the image is larger on both axes, areas are averaged: those of a whole number of pixels first, which
    is quick, and what then is less than halved is interpolated (640 x 480 to 224 x 224 in a sixth of the
    time). Else bilinear.
    """
    if height < out_height or width < out_width:
        return Scaling(1, averaged=False)
    most = min(height // out_height, width // out_width)
    factor = next(by for by in range(most, 0, -1) if height % by == width % by == 0)
    halved = height // factor >= 2 * out_height or width // factor >= 2 * out_width
    return Scaling(factor, averaged=factor == 1 or halved)
