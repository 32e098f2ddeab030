"""The compiled kernel on an NVIDIA GPU prepares images as the CPU does: pytest -m hardware, on a Jetson."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.backends.kernels import ImageTensor, Normalisation, find_fatbin, launch
from jepa_runtime.errors import BackendError
from jepa_runtime.pixels import ENCODINGS, RawLayout
from tests.runtime.kernels import IMAGENET, levels_apart, oracle, random_image

pytestmark = pytest.mark.hardware


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    cuda = pytest.importorskip(
        "jepa_runtime.backends.cuda", reason="pycuda cannot be imported (extra jetson)", exc_type=ImportError
    )
    try:
        gpu = cuda.Cuda(0)
    except BackendError as error:
        pytest.skip(str(error))
    with closing(gpu):
        try:
            gpu.load_kernels(find_fatbin())
        except BackendError as error:
            pytest.skip(str(error))
        yield gpu


def prepare(gpu: Any, data: bytes, layout: RawLayout, tensor: ImageTensor) -> NDArray[Any]:
    """The tensor of an image."""
    image = gpu.buffer((layout.needed_bytes,), np.uint8)
    made = gpu.buffer(tensor.shape, tensor.dtype.type)
    image.host[:] = np.frombuffer(data, np.uint8)[: layout.needed_bytes]
    kernel = launch(layout, image.address, tensor, made.address)

    def work() -> None:
        gpu.upload(image)
        gpu.launch(kernel)
        gpu.download(made)

    gpu.run(work)
    scaled: NDArray[Any] = made.host.copy()
    return scaled


def apart(gpu: Any, layout: RawLayout, tensor: ImageTensor) -> float:
    data = random_image(layout, 0)
    return levels_apart(prepare(gpu, data, layout, tensor), oracle(data, layout, tensor), tensor)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("width", "height", "padding"),
    [(640, 480, 0), (1280, 720, 64), (1920, 1080, 0), (642, 481, 5), (224, 224, 0), (158, 121, 3), (2, 1, 1)],
)
def test_an_image_becomes_the_tensor_of_the_cpu(
    gpu: Any, encoding: str, width: int, height: int, padding: int
) -> None:
    step = RawLayout(encoding, width, height).stride + padding
    assert apart(gpu, RawLayout(encoding, width, height, step), ImageTensor(height=224, width=224)) <= 1


@pytest.mark.parametrize("encoding", ["bgr8", "yuyv"])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("normalisation", [None, IMAGENET])
def test_every_kind_of_tensor_is_that_of_the_cpu(
    gpu: Any, encoding: str, channels_first: bool, normalisation: Normalisation | None
) -> None:
    tensor = ImageTensor(height=97, width=131, channels_first=channels_first, normalisation=normalisation)
    assert apart(gpu, RawLayout(encoding, 320, 240), tensor) <= 1.001


@pytest.mark.timeout(600)
def test_the_sanitizer_finds_no_byte_out_of_bounds(gpu: Any) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer, which comes with CUDA, is not on the PATH")
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "hardware", "-k", "of_the_cpu", __file__]
    checked = [sanitizer, "--tool=memcheck", "--error-exitcode=9", *tests]
    done = subprocess.run(checked, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stdout + done.stderr
