"""The kernel resizes images as the CPU does, and accesses no other memory; emulated, not on a device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.backends.tensorrt.kernels import fatbin_name, find_fatbin, launch
from jepa_runtime.errors import BackendError, FrameError
from jepa_runtime.imaging.pixel_formats import plan_scaling
from tests.errors import code
from tests.runtime.backends.kernels import (
    Emulation,
    Size,
    compile_emulation,
    levels_apart,
    oracle,
    random_image,
)

MODEL = 224, 224


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("g++, which compiles the emulation, is not installed")
    return compile_emulation(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="module")
def emulation(program: Path) -> Iterator[Emulation]:
    with closing(Emulation(program)) as emulation:
        yield emulation


sizes = st.tuples(st.integers(1, 80), st.integers(1, 80))


@settings(max_examples=400)
@given(size=sizes, out_size=sizes, seed=st.integers(0, 99))
def test_every_image_is_scaled_as_on_the_cpu(
    emulation: Emulation, size: Size, out_size: Size, seed: int
) -> None:
    image = random_image(size, seed)
    assert levels_apart(emulation.scaled(image, out_size), oracle(image, out_size)) <= 1


@pytest.mark.parametrize(
    ("width", "height"),
    [(640, 480), (1280, 720), (1920, 1080), (640, 481), (224, 224), (160, 120), (900, 100)],
)
def test_camera_formats_are_scaled_as_on_the_cpu(emulation: Emulation, width: int, height: int) -> None:
    image = random_image((height, width), 0)
    result, expected = emulation.scaled(image, MODEL), oracle(image, MODEL)
    assert levels_apart(result, expected) <= 1
    # OpenCV interpolates with fractions of 1 / 2^11, which changes the rounding of values near a half.
    interpolated = not plan_scaling(height, width, *MODEL).averaged
    assert np.mean(result != expected) <= (0.15 if interpolated else 0.001)


def test_image_of_the_model_size_is_bit_identical(emulation: Emulation) -> None:
    image = random_image((17, 31), 0)
    assert np.array_equal(emulation.scaled(image, (17, 31)), image)


def test_largest_white_image_stays_white(emulation: Emulation) -> None:
    result = emulation.scaled(np.full((64, 16381, 3), 255, np.uint8), (1, 1))
    assert result.ravel().tolist() == [255, 255, 255]


@pytest.mark.parametrize(("missing", "room"), [(1, (3, 3)), (0, (3, 2))])
def test_write_out_of_bounds_is_detected(program: Path, missing: int, room: Size) -> None:
    """Without this, the tests above would not prove that the kernel stays within both images."""
    image = random_image((4, 5), 0).tobytes()
    with (
        closing(Emulation(program)) as emulation,
        pytest.raises(AssertionError, match="heap-buffer-overflow"),
    ):
        emulation.run(launch(0, (4, 5), 0, (3, 3)), image[: len(image) - missing], room)


def test_launch_covers_the_frame_with_whole_blocks() -> None:
    described = launch(0x1000, (480, 640), 0x2000, (225, 224))
    assert described.block == (32, 8, 1) and described.grid == (7, 29, 1)
    (job,) = described.arguments
    assert (job["image"], job["frame"], job["width"] * job["factor"]) == (0x1000, 0x2000, 640)
    assert all(type(number) is int for number in described.grid + described.block)


@pytest.mark.parametrize("size", [(4096, 4096), (8, 16385)])
def test_image_too_large_for_the_kernel_is_rejected(size: Size) -> None:
    with pytest.raises(FrameError, check=code("frame.too_large")):
        launch(0, size, 0, (1, 1))


def test_compiled_kernels_are_found_by_the_hash_of_their_source(tmp_path: Path) -> None:
    with pytest.raises(BackendError, check=code("backend.kernel_not_found")):
        find_fatbin([tmp_path])
    (tmp_path / "preprocess-0123456789abcdef.fatbin").write_bytes(b"of another source")
    with pytest.raises(BackendError, match=fatbin_name(), check=code("backend.kernel_not_found")):
        find_fatbin([tmp_path])
    created = tmp_path / "second" / fatbin_name()
    created.parent.mkdir()
    created.write_bytes(b"of this one")
    assert find_fatbin([tmp_path, created.parent]) == created
