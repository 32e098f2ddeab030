"""Images of every encoding become the same RGB; invalid images raise errors with codes."""

from __future__ import annotations

import array
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.conversion import decode, resize_into, to_rgb
from tests.errors import code

Image = NDArray[np.uint8]
HEIGHT, WIDTH = 6, 8


@pytest.fixture
def rgb() -> Image:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def rows(pixels: Image, padding: int) -> tuple[bytes, int]:
    """Return the bytes of an image with padded rows, and its step."""
    flat = pixels.reshape(len(pixels), -1)
    return np.pad(flat, ((0, 0), (0, padding)), constant_values=99).tobytes(), flat.shape[1] + padding


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("rgb8", lambda rgb: rgb),
        ("bgr8", lambda rgb: rgb[:, :, ::-1]),
        ("rgba8", lambda rgb: np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])),
        ("bgra8", lambda rgb: np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 7, np.uint8)])),
    ],
)
def test_to_rgb_preserves_colors(
    rgb: Image, encoding: str, encode: Callable[[Image], Image], padding: int
) -> None:
    data, step = rows(np.ascontiguousarray(encode(rgb)), padding)
    result = to_rgb(data, encoding, WIDTH, HEIGHT, step)
    assert result.dtype == np.uint8
    assert np.array_equal(result, rgb)


@pytest.mark.parametrize("padding", [0, 3])
def test_gray_becomes_three_equal_channels(rgb: Image, padding: int) -> None:
    data, step = rows(rgb[:, :, 0].copy(), padding)
    assert np.array_equal(to_rgb(data, "mono8", WIDTH, HEIGHT, step), np.repeat(rgb[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
@pytest.mark.parametrize("padding", [0, 4])
def test_both_byte_orders_of_yuv422_are_read(encoding: str, order: str, padding: int) -> None:
    color = np.full((HEIGHT, WIDTH, 3), (200, 60, 90), np.uint8)
    y, u, v = (int(value) for value in cv2.cvtColor(color, cv2.COLOR_RGB2YUV)[0, 0])
    # Limited range, which the inverse conversion assumes.
    luma, u, v = round(16 + y * 219 / 255), round(128 + (u - 128) * 0.886 / 0.872), v
    named = {"y": luma, "u": 128, "v": 128}
    gray = np.tile(np.array([named[letter] for letter in order], np.uint8), (HEIGHT, WIDTH // 2))
    data, step = rows(gray, padding)
    result = to_rgb(data, encoding, WIDTH, HEIGHT, step)
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.ptp(result) <= 1 and abs(int(result[0, 0, 0]) - y) <= 2
    named["v"] = 200
    red = np.tile(np.array([named[letter] for letter in order], np.uint8), (HEIGHT, WIDTH // 2))
    result = to_rgb(rows(red, padding)[0], encoding, WIDTH, HEIGHT, step)
    assert result[0, 0, 0] > result[0, 0, 1] + 50 and result[0, 0, 0] > result[0, 0, 2] + 50


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("padding", [0, 4])
def test_bayer_pattern_is_named_by_its_first_two_rows(
    pattern: str, size: tuple[int, int], padding: int
) -> None:
    color = {"r": 200, "g": 120, "b": 40}
    tile = np.array([color[letter] for letter in pattern], np.uint8).reshape(2, 2)
    data, step = rows(np.tile(tile, (3, 4))[: size[0], : size[1]], padding)
    result = to_rgb(data, f"bayer_{pattern}8", size[1], size[0], step)
    assert result.shape == (*size, 3) and (result == (200, 120, 40)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb16", (200, 120, 40)),
        ("bgr16", (40, 120, 200)),
        ("rgba16", (200, 120, 40, 9)),
        ("bgra16", (40, 120, 200, 9)),
        ("mono16", (77,)),
        ("bayer_grbg16", (120,)),
    ],
)
def test_sixteen_bit_images_use_the_upper_eight_bits(
    encoding: str, pixel: tuple[int, ...], order: str
) -> None:
    values = np.full((HEIGHT, WIDTH, len(pixel)), pixel) * 256 + 251
    if encoding.startswith("bayer"):
        values[::2, 1::2], values[1::2, ::2] = 200 * 256 + 251, 40 * 256 + 251
    data, step = rows(values.astype(f"{order}u2").view(np.uint8), 6)
    result = to_rgb(data, encoding, WIDTH, HEIGHT, step, big_endian=order == ">")
    assert (result == ((77, 77, 77) if encoding == "mono16" else (200, 120, 40))).all()
    out = np.empty((3, 4, 3), np.uint8)
    resize_into(result, out)
    assert (out == result[:3, :4]).all()


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
@pytest.mark.parametrize("padding", [0, 5])
def test_chroma_planes_below_the_luma_plane_are_read(encoding: str, order: str, padding: int) -> None:
    y, u, v = 100, 90, 160
    # BT.601, limited range: 16 to 235, and 16 to 240 around 128.
    bright, blue, red = 1.164 * (y - 16), u - 128, v - 128
    expected = (bright + 1.596 * red, bright - 0.392 * blue - 0.813 * red, bright + 2.017 * blue)
    planes = np.full((HEIGHT * 3 // 2, WIDTH), y, np.uint8)
    planes[HEIGHT:] = np.tile([{"u": u, "v": v}[letter] for letter in order], WIDTH // 2)
    # The last pair of rows is gray.
    planes[-1] = 128
    data, step = rows(planes, padding)
    result = to_rgb(data, encoding, WIDTH, HEIGHT, step)
    np.testing.assert_allclose(result[:-2], np.broadcast_to(expected, (HEIGHT - 2, WIDTH, 3)), atol=1)
    np.testing.assert_allclose(result[-2:], np.full((2, WIDTH, 3), bright), atol=1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_bytes_buffer_is_accepted(rgb: Image, kind: Callable[[bytes], object]) -> None:
    assert np.array_equal(to_rgb(kind(rgb.tobytes()), "rgb8", WIDTH, HEIGHT), rgb)


def test_last_row_needs_no_padding(rgb: Image) -> None:
    data, step = rows(rgb, 5)
    assert np.array_equal(to_rgb(data[:-5], "rgb8", WIDTH, HEIGHT, step), rgb)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"encoding": "nv24"}, "frame.encoding_unsupported"),
        ({"encoding": "16UC1"}, "frame.encoding_unsupported"),
        ({"width": 0}, "frame.empty"),
        ({"height": 0}, "frame.empty"),
        ({"height": HEIGHT + 1}, "frame.too_short"),
        ({"step": 3}, "frame.size_invalid"),
        ({"step": 0}, "frame.size_invalid"),
        ({"step": 4096}, "frame.too_short"),
        ({"encoding": "yuv422", "width": 7}, "frame.size_invalid"),
        ({"encoding": "nv12", "width": 7}, "frame.size_invalid"),
        ({"encoding": "nv21", "height": 5}, "frame.size_invalid"),
        ({"encoding": "nv12", "width": 24, "step": 24}, "frame.too_short"),
        ({"data": b""}, "frame.too_short"),
    ],
)
def test_to_rgb_rejects_an_invalid_image(rgb: Image, changed: dict[str, object], expected: str) -> None:
    good = {"data": rgb.tobytes(), "encoding": "rgb8", "width": WIDTH, "height": HEIGHT, "step": WIDTH * 3}
    with pytest.raises(FrameError, check=code(expected)):
        to_rgb(**good | changed)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images_are_decoded(suffix: str) -> None:
    bgr = np.full((32, 48, 3), (20, 60, 200), np.uint8)
    _, data = cv2.imencode(suffix, bgr)
    result = decode(data.tobytes())
    assert result.shape == (32, 48, 3)
    assert np.abs(result.astype(int) - (200, 60, 20)).max() <= 3


@pytest.mark.parametrize(("suffix", "depth"), [(".png", np.uint8), (".png", np.uint16), (".jpg", np.uint8)])
def test_bayer_pattern_of_a_compressed_image_is_read(suffix: str, depth: type) -> None:
    scale = 256 if depth == np.uint16 else 1
    tile = np.array([[200, 120], [120, 40]]) * scale
    _, data = cv2.imencode(suffix, np.tile(tile, (16, 16)).astype(depth))
    encoding = f"bayer_rggb{np.iinfo(depth).bits}"
    result = decode(data.tobytes(), encoding)
    assert np.abs(result.astype(int) - (200, 120, 40)).max() <= 3
    _, data = cv2.imencode(suffix, np.full((32, 32, 3), (40, 120, 200), np.uint8))
    result = decode(data.tobytes(), encoding)
    assert np.abs(result.astype(int) - (200, 120, 40)).max() <= 3, "the compressor interpreted the pattern"


def test_decode_rejects_other_formats_and_damaged_files() -> None:
    _, bitmap = cv2.imencode(".bmp", np.zeros((4, 4, 3), np.uint8))
    for data, expected in (
        (bitmap.tobytes(), "frame.format_unsupported"),
        (b"", "frame.format_unsupported"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "frame.damaged"),
        (b"\xff\xd8\xff" + b"x" * 50, "frame.damaged"),
    ):
        with pytest.raises(FrameError, check=code(expected)):
            decode(data)


@pytest.mark.parametrize(
    ("kind", "before", "sides"), [(".jpg", b"\xff\xc0\0\x0b\x08", ">HH"), (".png", b"IHDR", ">II")]
)
def test_small_file_with_a_huge_claimed_size_is_rejected(kind: str, before: bytes, sides: str) -> None:
    content = cv2.imencode(kind, np.zeros((16, 16), np.uint8))[1].tobytes()
    small, huge = (before + struct.pack(sides, side, side) for side in (16, 8193))
    assert small in content
    with pytest.raises(FrameError, check=code("frame.too_large")):
        decode(content.replace(small, huge))


def test_image_of_the_model_size_is_copied_unchanged(rgb: Image) -> None:
    out, before = np.empty_like(rgb), rgb.copy()
    resize_into(rgb, out)
    assert np.array_equal(out, before) and np.array_equal(rgb, before) and not np.shares_memory(out, rgb)


def test_downscaling_averages_areas() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 200
    out = np.empty((16, 16, 3), np.uint8)
    resize_into(np.repeat(checks[..., None].astype(np.uint8), 3, axis=2), out)
    assert np.abs(out.astype(int) - 100).max() <= 1


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (481, 640), (1080, 1920), (300, 400)])
def test_stripes_finer_than_the_model_become_gray(size: tuple[int, int]) -> None:
    stripes = np.broadcast_to((np.indices(size).sum(axis=0) % 2 * 200)[..., None], (*size, 3))
    out = np.empty((224, 224, 3), np.uint8)
    resize_into(stripes.astype(np.uint8), out)
    assert np.abs(out.astype(int) - 100).max() <= 25
    assert abs(float(out.mean()) - 100) <= 1


@pytest.mark.parametrize("shape", [(4, 4, 3), (64, 8, 3), (480, 640, 3)])
def test_any_size_is_fitted_in_place(shape: tuple[int, ...]) -> None:
    buffer = np.zeros((1, 16, 16, 3), np.uint8)
    resize_into(np.full(shape, 120, np.uint8), buffer[0])
    assert (buffer == 120).all()


def test_views_with_padded_rows_or_transposed_axes_are_fitted(rgb: Image) -> None:
    out, expected = np.empty((4, 4, 3), np.uint8), np.empty((4, 4, 3), np.uint8)
    data, step = rows(rgb, 7)
    resize_into(rgb, expected)
    resize_into(to_rgb(data, "rgb8", WIDTH, HEIGHT, step), out)
    assert np.array_equal(out, expected)
    resize_into(rgb[::-1, ::-1], out)
    resize_into(rgb[::-1, ::-1].copy(), expected)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[0, 0, 0]],
        None,
    ],
)
def test_frame_that_is_not_an_rgb_image_is_rejected(image: Any) -> None:
    with pytest.raises(FrameError, check=code("frame.not_rgb")):
        resize_into(image, np.empty((4, 4, 3), np.uint8))


def test_remaining_factor_below_two_is_interpolated() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    out = np.empty((224, 300, 3), np.uint8)
    resize_into(image, out)
    halved = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    assert np.array_equal(out, cv2.resize(halved, (300, 224), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize("side", [2, 3])
def test_squares_of_pixels_are_averaged_for_any_side_lengths(side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3 * side, 4 * side, 3), np.uint8)
    out = np.empty((3, 4, 3), np.uint8)
    resize_into(image, out)
    means = image.reshape(3, side, 4, side, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, means, atol=0.5)
