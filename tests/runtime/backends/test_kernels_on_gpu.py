"""The compiled kernel on an NVIDIA GPU resizes images as the CPU does: pytest -m hardware, on a Jetson."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from jepa_runtime.backends.tensorrt.kernels import find_fatbin, launch
from jepa_runtime.errors import BackendError
from jepa_runtime.imaging.conversion import Image
from tests.runtime.backends.kernels import Size, levels_apart, oracle, random_image

pytestmark = pytest.mark.hardware


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    cuda = pytest.importorskip(
        "jepa_runtime.backends.tensorrt.cuda",
        reason="pycuda cannot be imported (extra jetson)",
        exc_type=ImportError,
    )
    try:
        gpu = cuda.Cuda(0)
    except BackendError as error:
        pytest.skip(str(error))
    with closing(gpu):
        try:
            gpu.load_kernel(find_fatbin())
        except BackendError as error:
            pytest.skip(str(error))
        yield gpu


def scaled(gpu: Any, image: Image, size: Size) -> Image:
    """Resize an image."""
    taken, created = gpu.buffer(image.shape, np.uint8), gpu.buffer((*size, 3), np.uint8)
    taken.host[:] = image
    kernel = launch(taken.address, image.shape[:2], created.address, size)

    def work() -> None:
        gpu.upload(taken)
        gpu.launch(kernel)
        gpu.download(created)

    gpu.run(work)
    result: Image = created.host.copy()
    return result


@pytest.mark.parametrize("size", [(224, 224), (97, 131)])
@pytest.mark.parametrize(
    ("width", "height"),
    [(640, 480), (1280, 720), (1920, 1080), (642, 481), (224, 224), (158, 121), (2, 1)],
)
def test_image_is_scaled_as_on_the_cpu(gpu: Any, width: int, height: int, size: Size) -> None:
    image = random_image((height, width), 0)
    assert levels_apart(scaled(gpu, image, size), oracle(image, size)) <= 1


@pytest.mark.timeout(600)
def test_sanitizer_finds_no_access_out_of_bounds(gpu: Any) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer, which comes with CUDA, is not on the PATH")
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "hardware", "-k", "of_the_cpu", __file__]
    checked = [sanitizer, "--tool=memcheck", "--error-exitcode=9", *tests]
    done = subprocess.run(checked, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stdout + done.stderr
