"""The kernel prepares images as the CPU does and touches nothing else: by emulation, not on a device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.backends.kernels import (
    ENTRY_POINTS,
    ImageTensor,
    Normalisation,
    fatbin_name,
    find_fatbin,
    launch,
)
from jepa_runtime.errors import BackendError, FrameError
from jepa_runtime.pixels import ENCODINGS, RawLayout, scaling
from tests.runtime.kernels import IMAGENET, Emulation, compile_emulation, levels_apart, oracle, random_image

MODEL = ImageTensor(height=224, width=224)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("g++, which compiles the emulation, is not installed")
    return compile_emulation(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="module")
def emulation(program: Path) -> Iterator[Emulation]:
    with closing(Emulation(program)) as emulation:
        yield emulation


@st.composite
def layouts(draw: st.DrawFn) -> RawLayout:
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    layout = RawLayout(encoding, 2 * width if ENCODINGS[encoding].paired else width, height)
    return replace(layout, step=layout.row_bytes + draw(st.integers(0, 5)))


tensors = st.builds(
    ImageTensor,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels_first=st.booleans(),
    normalisation=st.sampled_from([None, IMAGENET]),
)


@settings(max_examples=400)
@given(layout=layouts(), tensor=tensors, seed=st.integers(0, 99))
def test_every_image_becomes_the_tensor_that_the_cpu_makes(
    emulation: Emulation, layout: RawLayout, tensor: ImageTensor, seed: int
) -> None:
    data = random_image(layout, seed)
    found = emulation.prepare(data, layout, tensor)
    assert levels_apart(found, oracle(data, layout, tensor), tensor) <= 1.001


@pytest.mark.parametrize("encoding", ["rgb8", "yuv422_yuy2"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(640, 480), (1280, 720), (1920, 1080), (640, 481), (224, 224), (160, 120), (900, 100)],
)
def test_what_cameras_send_becomes_the_tensor_that_the_cpu_makes(
    emulation: Emulation, encoding: str, width: int, height: int
) -> None:
    layout = RawLayout(encoding, width, height)
    data = random_image(layout, 0)
    found, expected = emulation.prepare(data, layout, MODEL), oracle(data, layout, MODEL)
    assert levels_apart(found, expected, MODEL) <= 1
    # OpenCV interpolates with fractions of 1 / 2^11, which moves what lies near a half.
    interpolated = not scaling(height, width, MODEL.height, MODEL.width).averaged
    assert np.mean(found != expected) <= (0.15 if interpolated else 0.001)


def test_an_image_of_the_right_size_is_kept_bit_by_bit(emulation: Emulation) -> None:
    layout, tensor = RawLayout("bgr8", 31, 17), ImageTensor(height=17, width=31)
    data = random_image(layout, 0)
    assert np.array_equal(emulation.prepare(data, layout, tensor), oracle(data, layout, tensor))


def test_the_largest_image_is_still_white_when_it_is_white(emulation: Emulation) -> None:
    layout, tensor = RawLayout("mono8", 16381, 64), ImageTensor(height=1, width=1)
    found = emulation.prepare(bytes([255]) * layout.needed_bytes, layout, tensor)
    assert found.ravel().tolist() == [255, 255, 255]


def test_every_colour_is_converted_bit_by_bit(emulation: Emulation) -> None:
    grid = np.arange(0, 256, 5)
    y, u, v = (axis.ravel() for axis in np.meshgrid(grid, grid, grid))
    pairs = np.stack([y, u, np.roll(y, 1), v], axis=1).astype(np.uint8)
    layout = RawLayout("yuyv", 2 * grid.size, grid.size**2)
    tensor = ImageTensor(height=layout.height, width=layout.width)
    data = pairs.tobytes()
    assert np.array_equal(emulation.prepare(data, layout, tensor), oracle(data, layout, tensor))


@pytest.mark.parametrize(
    ("missing", "room"), [(1, ImageTensor(height=3, width=3)), (0, ImageTensor(height=3, width=2))]
)
def test_a_byte_out_of_bounds_would_be_found(program: Path, missing: int, room: ImageTensor) -> None:
    """Without this, the tests above would not show that the kernel stays inside of image and tensor."""
    layout, tensor = RawLayout("rgb8", 5, 4), ImageTensor(height=3, width=3)
    image = random_image(layout, 0)[: layout.needed_bytes - missing]
    with (
        closing(Emulation(program)) as emulation,
        pytest.raises(AssertionError, match="heap-buffer-overflow"),
    ):
        emulation.run(launch(layout, 0, tensor, 0), image, room)


def test_the_launch_covers_the_tensor_with_whole_blocks() -> None:
    described = launch(RawLayout("rgb8", 640, 480), 0x1000, ImageTensor(height=225, width=224), 0x2000)
    assert described.entry == "interleaved_to_uint8"
    assert described.block == (32, 8, 1) and described.grid == (7, 29, 1)
    (job,) = described.arguments
    assert (job["image"], job["tensor"], job["step"]) == (0x1000, 0x2000, 1920)
    assert all(type(number) is int for number in described.grid + described.block)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalisation", [None, IMAGENET])
def test_the_entry_point_is_one_of_the_source(encoding: str, normalisation: Normalisation | None) -> None:
    tensor = ImageTensor(height=8, width=8, normalisation=normalisation)
    assert launch(RawLayout(encoding, 8, 8), 0, tensor, 0).entry in ENTRY_POINTS


@pytest.mark.parametrize(
    "layout",
    [
        RawLayout("mono8", 4096, 4096),
        RawLayout("mono8", 16385, 8),
        RawLayout("mono8", 8, 8, 1 << 31),
    ],
)
def test_an_image_too_large_for_the_kernel_is_refused(layout: RawLayout) -> None:
    with pytest.raises(FrameError, match="too large to be scaled to 1 x 1"):
        launch(layout, 0, ImageTensor(height=1, width=1), 0)


def test_a_tensor_tells_its_shape_and_type() -> None:
    assert (MODEL.shape, MODEL.dtype) == ((1, 224, 224, 3), np.uint8)
    other = ImageTensor(height=4, width=6, channels_first=True, normalisation=IMAGENET)
    assert (other.shape, other.dtype) == ((1, 3, 4, 6), np.float32)


def test_impossible_tensors_are_refused() -> None:
    with pytest.raises(BackendError, match="no pixels"):
        ImageTensor(height=0, width=4)
    with pytest.raises(BackendError, match="must be positive"):
        Normalisation((0, 0, 0), (1, 0, 1))


def test_compiled_kernels_are_found_by_the_hash_of_their_source(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"python -m jepa_export\.targets\.kernels"):
        find_fatbin([tmp_path])
    (tmp_path / "preprocess-0123456789abcdef.fatbin").write_bytes(b"of another source")
    with pytest.raises(BackendError, match=fatbin_name()):
        find_fatbin([tmp_path])
    made = tmp_path / "second" / fatbin_name()
    made.parent.mkdir()
    made.write_bytes(b"of this one")
    assert find_fatbin([tmp_path, made.parent]) == made
