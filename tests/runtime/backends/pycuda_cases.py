"""The contract of cuda.py, tested over the fake driver; run by test_pycuda.py."""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.backends.tensorrt import backend, cuda
from jepa_runtime.backends.tensorrt.cuda import Cuda, CudaBuffer
from jepa_runtime.backends.tensorrt.kernels import launch
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError, DeviceLostError
from jepa_runtime.model.parity import golden_parity
from tests.errors import code
from tests.runtime.backends.simulated_gpu import BY_STREAM
from tests.runtime.backends.simulated_tensorrt import SimulatedTensorRT

DRIVER = ctypes.CDLL("libcuda.so.1")
KINDS = ("host memory", "memory", "stream", "event", "module", "graph", "executable graph")
UNKNOWN = 999
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def alive() -> dict[str, int]:
    """Return the number of unreleased driver objects by kind."""
    gc.collect()
    counts = (ctypes.c_long * len(KINDS)).in_dll(DRIVER, "fake_live")
    return {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}


def left() -> tuple[dict[str, int], int, int]:
    """Return live objects, references to primary contexts, and the depth of the context stack."""
    return alive(), DRIVER.fake_references(), DRIVER.fake_depth()


def fail(prefix: str, call: int = 1) -> None:
    """Make the n-th call from now of functions with matching names fail."""
    DRIVER.fake_fail(prefix.encode(), ctypes.c_long(call), UNKNOWN)


@pytest.fixture(autouse=True)
def leaks_nothing() -> Iterator[None]:
    yield
    fail("", 0)
    assert left() == ({}, 0, 0)


@pytest.fixture
def gpu() -> Iterator[Cuda]:
    opened = Cuda(0)
    yield opened
    opened.close()


def used(gpu: Cuda) -> int:
    """Return the driver's status for work of other libraries on the legacy stream."""
    buffer = gpu.buffer((4,), np.uint8)
    gpu.run(lambda: gpu.upload(buffer))
    status: int = DRIVER.cuMemsetD8_v2(ctypes.c_void_p(buffer.address), 0, ctypes.c_size_t(4))
    return status


def test_opening_that_fails_at_any_call_leaves_nothing() -> None:
    for call in itertools.count(1):
        fail("cu", call)
        try:
            gpu = Cuda(0)
        except BackendError:
            assert left() == ({}, 0, 0)
        else:
            break
    fail("", 0)
    gpu.close()
    assert call > 8


def test_second_gpu_needs_its_own_thread(gpu: Cuda) -> None:
    with pytest.raises(BackendError, check=code("backend.several_gpus")):
        Cuda(1)
    gpu.buffer((4,), np.uint8)


@pytest.mark.parametrize("integrated", [0, 1])
def test_file_backed_memory_is_available_where_the_gpu_shares_it(
    integrated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes.c_int.in_dll(DRIVER, "fake_integrated"), "value", integrated)
    gpu = Cuda(0)
    free, of_cuda, of_system = gpu.free_bytes, 1 << 30, psutil.virtual_memory().available
    gpu.close()
    assert free == pytest.approx(max(of_system, of_cuda) if integrated else of_cuda, rel=0.2)


@pytest.mark.parametrize("first", [0, 1])
def test_two_contexts_on_one_thread_close_in_any_order(first: int) -> None:
    both = [Cuda(0), Cuda(0)]
    both[first].close()
    assert used(both[1 - first]) == 0
    both[1 - first].close()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("pushed_after", [False, True])
def test_context_of_another_library_stays_current(index: int, pushed_after: bool) -> None:
    context, current = ctypes.c_void_p(), ctypes.c_void_p()
    DRIVER.cuDevicePrimaryCtxRetain(ctypes.byref(context), index)
    gpu = Cuda(0) if pushed_after else None
    DRIVER.cuCtxPushCurrent_v2(context)
    (gpu or Cuda(0)).close()
    DRIVER.cuCtxGetCurrent(ctypes.byref(current))
    assert current.value == context.value
    while DRIVER.fake_depth():
        DRIVER.cuCtxPopCurrent_v2(ctypes.byref(current))
    DRIVER.cuDevicePrimaryCtxRelease_v2(index)


def test_repeated_opening_and_closing_leaves_no_context() -> None:
    for _ in range(100):
        Cuda(0).close()
        assert DRIVER.fake_depth() == 0


@pytest.mark.parametrize(
    "function",
    ["cuStreamBeginCapture", "cuMemcpyHtoDAsync", "cuStreamEndCapture", "cuGraphInstantiate"],
)
def test_failed_recording_leaves_no_graph(gpu: Cuda, function: str) -> None:
    buffer = gpu.buffer((4,), np.uint8)
    before = alive()
    fail(function)
    with pytest.raises(BackendError):
        gpu.record(lambda: gpu.upload(buffer))
    fail("", 0)
    assert alive() == before
    gpu.run(gpu.record(lambda: gpu.upload(buffer)))


def test_unrecordable_work_is_reported_and_leaves_no_graph(gpu: Cuda) -> None:
    buffer = gpu.buffer((4,), np.uint8)
    before = alive()
    with pytest.raises(BackendError):
        gpu.record(lambda: gpu.upload(gpu.buffer((4,), np.uint8)))
    assert alive() == before
    gpu.run(gpu.record(lambda: gpu.upload(buffer)))


def test_other_threads_are_unrestricted_during_a_recording(gpu: Cuda) -> None:
    buffer, reported = gpu.buffer((4,), np.uint8), []

    def other() -> None:
        mine = Cuda(0)
        reported.append(used(mine))
        mine.close()
        reported.append(DRIVER.fake_depth())

    def work() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        gpu.upload(buffer)

    recorded = gpu.record(work)
    buffer.host[:] = 7
    gpu.run(recorded)
    buffer.host[:] = 0
    gpu.run(lambda: gpu.download(buffer))
    assert reported == [0, 0] and buffer.host.tolist() == [7] * 4


def test_kernels_run_when_the_recording_is_launched(gpu: Cuda) -> None:
    launches = ctypes.c_long.in_dll(DRIVER, "fake_launches")
    image, tensor = gpu.buffer((48, 64, 3), np.uint8), gpu.buffer((1, 32, 32, 3), np.uint8)
    kernel = launch(image.address, (48, 64), tensor.address, (32, 32))
    gpu.load_kernel(Path("any"))
    recorded = gpu.record(lambda: gpu.launch(kernel))
    assert launches.value == 0
    for count in (1, 2):
        gpu.run(recorded)
        assert launches.value == count


def test_kernel_fault_is_a_lost_gpu_and_any_other_error_is_not(gpu: Cuda) -> None:
    buffer, lost = gpu.buffer((4,), np.uint8), ctypes.c_int.in_dll(DRIVER, "fake_lost")
    recorded = gpu.record(lambda: gpu.upload(buffer))

    def wrong() -> None:
        recorded()
        lost.value = 700

    with pytest.raises(DeviceLostError, check=code("backend.device_lost")):
        gpu.run(wrong)
    with pytest.raises(DeviceLostError):
        gpu.run(recorded)
    lost.value = 0
    fail("cuGraphLaunch")
    with pytest.raises(BackendError, check=code("backend.gpu_failed")):
        gpu.run(recorded)
    fail("", 0)
    gpu.run(recorded)


def test_ten_thousand_runs_use_no_more_memory_than_half_of_them(gpu: Cuda) -> None:
    buffer = gpu.buffer((4,), np.uint8)
    recorded = gpu.record(lambda: gpu.upload(buffer))
    taken = []
    for _ in range(2):
        for _ in range(5_000):
            gpu.run(recorded)
        taken.append((left(), psutil.Process().memory_info().rss))
    assert taken[0][0] == taken[1][0] and taken[1][1] - taken[0][1] < 100_000


class CudaOfTensorRT(Cuda):
    """Add operations for the simulated TensorRT: access to GPU memory, and Python on the stream."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._made: dict[int, tuple[tuple[int, ...], type]] = {}
        self._calls: list[Any] = []
        BY_STREAM[self.stream] = self  # type: ignore[assignment]

    def buffer(self, shape: tuple[int, ...], dtype: type) -> CudaBuffer:
        created = super().buffer(shape, dtype)
        self._made[created.address] = shape, dtype
        return created

    def at(self, address: int) -> np.ndarray[Any, Any]:
        shape, dtype = self._made[address]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    def enqueue(self, work: Callable[[], None]) -> None:
        self._calls.append(HOST_FUNCTION(lambda _: work()))
        assert DRIVER.cuLaunchHostFunc(ctypes.c_void_p(self.stream), self._calls[-1], None) == 0


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BackendOptions:
    """Simulate the kernels of the simulated TensorRT on this GPU; they compute nothing."""

    def no_kernels() -> Path:
        raise BackendError("the fake driver has none")

    monkeypatch.setitem(sys.modules, "tensorrt", SimulatedTensorRT())  # type: ignore[arg-type]
    monkeypatch.setattr(cuda, "Cuda", CudaOfTensorRT)
    monkeypatch.setattr(backend, "find_fatbin", no_kernels)
    return BackendOptions(cache_dir=tmp_path, build=lambda *_: True)


def test_bundle_reproduces_its_golden_outputs(toy_bundle: Path, options: BackendOptions) -> None:
    parities = golden_parity(Bundle.open(toy_bundle), engine="tensorrt", options=options)
    assert len(parities) == 3 and all(parity.ok for parity in parities), parities


@pytest.mark.parametrize("function", ["cuMemHostAlloc", "cuMemAlloc", "cuMemsetD8", "cuEventSynchronize"])
def test_model_that_cannot_be_opened_leaves_nothing(
    toy_bundle: Path, options: BackendOptions, function: str
) -> None:
    for call in itertools.count(1):
        fail(function, call)
        try:
            model = WorldModel.open(toy_bundle, engine="tensorrt", options=options)
        except BackendError:
            assert left() == ({}, 0, 0)
        else:
            break
    model.close()
    assert call > 3


def test_model_that_cannot_be_recorded_leaves_nothing(toy_bundle: Path, options: BackendOptions) -> None:
    fail("cuGraphInstantiate")
    WorldModel.open(toy_bundle, engine="tensorrt", options=options).close()
