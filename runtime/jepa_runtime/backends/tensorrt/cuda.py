"""All CUDA calls: through PyCUDA, and for graphs, which PyCUDA lacks, through the driver library.

Memory and graphs are released when they are no longer referenced. This must happen on the thread that created
them, before it leaves the GPU. :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu` documents the methods.
"""

from __future__ import annotations

import atexit
import ctypes
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycuda.driver as driver

from jepa_runtime.backends.base import Array, Shape
from jepa_runtime.backends.tensorrt.gpu import Buffer, Work
from jepa_runtime.backends.tensorrt.kernels import ENTRY_POINT, Launch
from jepa_runtime.errors import BackendError, DeviceLostError

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: CUDA calls of other threads do not affect the capture.
_THREAD_LOCAL = 1
# CU_STREAM_NON_BLOCKING: a blocking stream makes the legacy stream unusable during capture.
_NON_BLOCKING = 1
# PyCUDA has loaded it.
_library = ctypes.CDLL("libcuda.so.1")


class _Contexts(threading.local):
    """The primary context of a thread, and how often it was entered.

    The other libraries of the process use the same context: a separate one would cost memory and switches.
    PyCUDA aborts the process if a thread or the interpreter ends with a current context.
    """

    def __init__(self) -> None:
        self._index = self._count = 0
        self._context: Any = None

    def enter(self, index: int) -> None:
        """Make the context of a GPU current on this thread."""
        if self._count and index != self._index:
            raise BackendError(
                f"GPU {self._index} is open on this thread: open GPU {index} on another thread",
                code="backend.several_gpus",
            )
        if not self._count:
            self._context = driver.Device(index).retain_primary_context()
            try:
                self._context.push()
            except BaseException:
                # PyCUDA's destructor does not release a primary context.
                self._context.detach()
                raise
        self._index, self._count = index, self._count + 1

    def leave(self) -> None:
        """Leave the context once this was called as often as :meth:`enter`."""
        self._count -= 1
        if not self._count:
            context, self._context = self._context, None
            # PyCUDA's pop would push the context again to release it, and leave it current.
            current = ctypes.c_void_p()
            _library.cuCtxGetCurrent(ctypes.byref(current))
            if current.value == context.handle:
                _library.cuCtxPopCurrent_v2(ctypes.byref(current))
            context.detach()

    def leave_for_good(self) -> None:
        """Leave the context unconditionally, when the interpreter exits."""
        if self._count:
            self._count = 1
            self.leave()


_contexts = _Contexts()
atexit.register(_contexts.leave_for_good)


@dataclass(frozen=True)
class CudaBuffer:
    """Page-locked host memory and GPU memory of the same size."""

    host: Array
    memory: Any

    @property
    def address(self) -> int:
        return int(self.memory)


class Cuda:
    """An NVIDIA GPU, through PyCUDA.

    Args:
        index: The number of the GPU in CUDA.

    Raises:
        BackendError: The GPU does not exist, its driver does not work, or another GPU is open on this thread.
    """

    def __init__(self, index: int) -> None:
        with _cuda_errors("the GPU cannot be used"):
            driver.init()
            if index >= (count := driver.Device.count()):
                raise BackendError(f"no GPU {index}: CUDA has {count} GPUs", code="backend.device_not_found")
            device = driver.Device(index)
            self.name: str = device.name()
            self.compute_capability: tuple[int, int] = device.compute_capability()
            self.multiprocessors = int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT))
            self._integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            number = driver.get_driver_version()
            self.driver = f"{number // 1000}.{number % 1000 // 10}"
            self._kernel: Any = None
            self._graphs = _Graphs()
            self._stream: Any = None
            self._began: Any = None
            self._ended: Any = None
            _contexts.enter(index)
            try:
                self._stream = driver.Stream(_NON_BLOCKING)
                # A waiting thread sleeps: polling would occupy a core.
                blocking = driver.event_flags.BLOCKING_SYNC
                self._began, self._ended = driver.Event(blocking), driver.Event(blocking)
            except BaseException:
                self._stream = self._began = None
                _contexts.leave()
                raise

    @property
    def free_bytes(self) -> int:
        with _cuda_errors("the free memory of the GPU cannot be read"):
            free = int(driver.mem_get_info()[0])
        # On integrated GPUs, CUDA counts the page cache of the system as used memory.
        return max(free, _available_bytes()) if self._integrated else free

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def buffer(self, shape: Shape, dtype: type) -> CudaBuffer:
        with _cuda_errors(f"a buffer of {list(shape)} cannot be allocated"):
            host = driver.pagelocked_zeros(shape, dtype)
            memory = driver.mem_alloc(host.nbytes)
            driver.memset_d8_async(memory, 0, host.nbytes, self._stream)
            self._stream.synchronize()
            return CudaBuffer(host, memory)

    def upload(self, buffer: Buffer) -> None:
        with _cuda_errors("a copy to the GPU failed"):
            driver.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        with _cuda_errors("a copy from the GPU failed"):
            driver.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def load_kernel(self, path: Path) -> None:
        with _cuda_errors(f"{path} cannot be loaded"):
            self._kernel = driver.module_from_file(str(path)).get_function(ENTRY_POINT)

    def launch(self, kernel: Launch) -> None:
        with _cuda_errors(f"{ENTRY_POINT} cannot be launched"):
            self._kernel(*kernel.arguments, grid=kernel.grid, block=kernel.block, stream=self._stream)

    def record(self, work: Work) -> Work:
        return self._graphs.record(work, self.stream)

    def run(self, work: Work) -> float:
        try:
            with _cuda_errors("the GPU failed"):
                self._began.record(self._stream)
                work()
                self._ended.record(self._stream)
                # Before this, the elapsed time would be that of the launch.
                self._ended.synchronize()
                return float(self._ended.time_since(self._began))
        except BackendError as error:
            # After such an error (CUDA_ERROR_ILLEGAL_ADDRESS, cuda.h) every later call returns it again.
            if _library.cuCtxSynchronize():
                raise DeviceLostError(f"{error}: CUDA accepts no further work from this process") from error
            raise

    def close(self) -> None:
        if self._stream is None:
            return
        self._stream = self._began = self._ended = None
        self._kernel = None
        with _cuda_errors("the GPU context cannot be released"):
            _contexts.leave()


class _Graphs:
    """CUDA graphs, which PyCUDA does not support."""

    def record(self, work: Work, stream: int) -> Work:
        handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
        try:
            try:
                work()
            finally:
                # Also after an error: a capturing stream executes nothing.
                ended = _library.cuStreamEndCapture(handle, ctypes.byref(graph))
            self._check("cuStreamEndCapture", ended)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                _library.cuGraphDestroy(graph)

        def launch() -> None:
            self._call("cuGraphLaunch", executable, handle)

        # When the interpreter exits, the context is released with the graph.
        weakref.finalize(launch, _library.cuGraphExecDestroy, executable).atexit = False
        return launch

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(_library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if status:
            name = ctypes.c_char_p()
            _library.cuGetErrorName(status, ctypes.byref(name))
            raise BackendError(
                f"CUDA: {function} failed: {(name.value or b'unknown').decode('ascii')}",
                code="backend.gpu_failed",
            )


def _available_bytes() -> int:
    """Return the memory that the system can provide without swapping."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
    return int(found[1]) << 10 if found else 0


@contextmanager
def _cuda_errors(what: str) -> Iterator[None]:
    try:
        yield
    except driver.MemoryError as error:
        raise BackendError(
            f"{what}: out of GPU memory ({error}): end other processes that use the GPU, or reduce "
            "num_samples",
            code="backend.out_of_memory",
        ) from error
    except driver.Error as error:
        raise BackendError(f"{what}: {error}", code="backend.gpu_failed") from error
