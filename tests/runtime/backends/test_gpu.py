"""The contract of a GPU, tested on the simulated GPU, and on CUDA if there is one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import pytest

from jepa_runtime.backends.tensorrt.gpu import Gpu
from jepa_runtime.errors import BackendError
from tests.errors import code
from tests.runtime.backends.simulated_gpu import SimulatedGpu


@pytest.fixture(params=["simulated", pytest.param("cuda", marks=pytest.mark.hardware)])
def kind(request: pytest.FixtureRequest) -> type[Gpu]:
    if request.param == "simulated":
        return SimulatedGpu
    pytest.importorskip("pycuda.driver", reason="no pycuda, or no NVIDIA driver")
    result: type[Gpu] = importlib.import_module("jepa_runtime.backends.tensorrt.cuda").Cuda
    return result


@pytest.fixture
def gpu(kind: type[Gpu]) -> Iterator[Gpu]:
    opened = kind(0)  # type: ignore[call-arg]
    yield opened
    opened.close()


def test_gpu_has_its_name_and_properties(gpu: Gpu) -> None:
    assert gpu.name and gpu.driver.count(".") == 1
    assert gpu.compute_capability >= (5, 0) and gpu.multiprocessors > 0
    assert gpu.stream != 0 and gpu.free_bytes > 0


def test_buffers_start_at_zero_and_hold_copied_data(gpu: Gpu) -> None:
    buffer = gpu.buffer((3, 5), np.float32)
    assert buffer.host.shape == (3, 5) and buffer.host.dtype == np.float32 and buffer.host.flags.c_contiguous
    buffer.host[:] = 7
    gpu.run(lambda: gpu.download(buffer))
    assert not buffer.host.any()
    buffer.host[:] = np.arange(15).reshape(3, 5)
    gpu.run(lambda: gpu.upload(buffer))
    buffer.host[:] = 0
    gpu.run(lambda: gpu.download(buffer))
    assert buffer.host.tolist() == np.arange(15).reshape(3, 5).tolist()


def test_buffers_do_not_overlap(gpu: Gpu) -> None:
    assert gpu.buffer((4,), np.uint8).address != gpu.buffer((4,), np.uint8).address


def test_recorded_work_uses_the_host_data_of_each_launch(gpu: Gpu) -> None:
    buffer = gpu.buffer((2,), np.float32)

    def there() -> None:
        gpu.upload(buffer)

    gpu.run(there)
    launch = gpu.record(there)
    for value in (1.0, 2.0):
        buffer.host[:] = value
        assert gpu.run(launch) >= 0
        buffer.host[:] = 0
        gpu.run(lambda: gpu.download(buffer))
        assert buffer.host.tolist() == [value, value]


def test_recording_executes_nothing(gpu: Gpu) -> None:
    buffer = gpu.buffer((2,), np.float32)
    buffer.host[:] = 3
    gpu.record(lambda: gpu.upload(buffer))
    gpu.run(lambda: gpu.download(buffer))
    assert not buffer.host.any()


def test_error_during_a_recording_leaves_the_gpu_usable(gpu: Gpu) -> None:
    def fail() -> None:
        raise BackendError("planted", code="test.planted")

    with pytest.raises(BackendError, check=code("test.planted")):
        gpu.record(fail)
    buffer = gpu.buffer((2,), np.float32)
    gpu.run(lambda: gpu.upload(buffer))


def test_allocation_beyond_the_memory_is_an_error(gpu: Gpu) -> None:
    with pytest.raises(BackendError, check=code("backend.out_of_memory")):
        gpu.buffer((1 << 20, 1 << 20), np.uint8)


def test_gpu_can_be_reopened(kind: type[Gpu]) -> None:
    for _ in range(3):
        opened = kind(0)  # type: ignore[call-arg]
        opened.buffer((2,), np.float32)
        opened.close()


def test_missing_device_number_is_an_error(kind: type[Gpu]) -> None:
    with pytest.raises(BackendError, check=code("backend.device_not_found")):
        kind(99)  # type: ignore[call-arg]
