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


class Gpu:
    """The kernels in the primary context of the first GPU, on the thread that made this."""

    def __init__(self, cuda: Any, path: str) -> None:
        self._cuda = cuda
        self._context = cuda.Device(0).retain_primary_context()
        self._context.push()
        try:
            self._stream = cuda.Stream()
            self._module = cuda.module_from_file(path)
        except cuda.Error:
            self.close()
            raise

    def prepare(self, data: bytes, layout: RawLayout, tensor: ImageTensor) -> NDArray[Any]:
        """The tensor of an image."""
        image = self._cuda.pagelocked_empty(layout.needed_bytes, np.uint8)
        image[:] = np.frombuffer(data, np.uint8)
        made = self._cuda.pagelocked_empty(tensor.shape, tensor.dtype)
        image_there, made_there = self._cuda.mem_alloc(image.nbytes), self._cuda.mem_alloc(made.nbytes)
        described = launch(layout, int(image_there), tensor, int(made_there))
        kernel = self._module.get_function(described.entry)
        self._cuda.memcpy_htod_async(image_there, image, self._stream)
        kernel(*described.arguments, grid=described.grid, block=described.block, stream=self._stream)
        self._cuda.memcpy_dtoh_async(made, made_there, self._stream)
        self._stream.synchronize()
        return made.copy()

    def close(self) -> None:
        """Free what is on the GPU, then leave the context: pycuda aborts where one is left current."""
        self._module = self._stream = None
        self._context.pop()
        self._context.detach()


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    cuda = pytest.importorskip(
        "pycuda.driver", reason="pycuda cannot be imported (extra jetson)", exc_type=ImportError
    )
    try:
        path = str(find_fatbin())
        cuda.init()
        gpu = Gpu(cuda, path)
    except (BackendError, cuda.Error) as error:
        pytest.skip(str(error))
    with closing(gpu):
        yield gpu


def apart(gpu: Gpu, layout: RawLayout, tensor: ImageTensor) -> float:
    data = random_image(layout, 0)
    return levels_apart(gpu.prepare(data, layout, tensor), oracle(data, layout, tensor), tensor)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("width", "height", "padding"),
    [(640, 480, 0), (1280, 720, 64), (1920, 1080, 0), (642, 481, 5), (224, 224, 0), (158, 121, 3), (2, 1, 1)],
)
def test_an_image_becomes_the_tensor_of_the_cpu(
    gpu: Gpu, encoding: str, width: int, height: int, padding: int
) -> None:
    step = RawLayout(encoding, width, height).stride + padding
    assert apart(gpu, RawLayout(encoding, width, height, step), ImageTensor(height=224, width=224)) <= 1


@pytest.mark.parametrize("encoding", ["bgr8", "yuyv"])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("normalisation", [None, IMAGENET])
def test_every_kind_of_tensor_is_that_of_the_cpu(
    gpu: Gpu, encoding: str, channels_first: bool, normalisation: Normalisation | None
) -> None:
    tensor = ImageTensor(height=97, width=131, channels_first=channels_first, normalisation=normalisation)
    assert apart(gpu, RawLayout(encoding, 320, 240), tensor) <= 1.001


@pytest.mark.timeout(600)
def test_the_sanitizer_finds_no_byte_out_of_bounds(gpu: Gpu) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer, which comes with CUDA, is not on the PATH")
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "hardware", "-k", "of_the_cpu", __file__]
    checked = [sanitizer, "--tool=memcheck", "--error-exitcode=9", *tests]
    done = subprocess.run(checked, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stdout + done.stderr
