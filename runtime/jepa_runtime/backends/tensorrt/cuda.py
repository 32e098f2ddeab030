"""All calls of CUDA: by pycuda; what that lacks (graphs) by the driver's own library.

Memory and graphs are given back when nobody refers to them, which must be on the thread that has them, before
it leaves the GPU; :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu` says what each method does.
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

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do with CUDA meanwhile is their own affair.
_THREAD_LOCAL = 1
# CU_STREAM_NON_BLOCKING: one that blocks makes the legacy stream unusable for others while it records.
_NON_BLOCKING = 1
# pycuda has loaded it.
_library = ctypes.CDLL("libcuda.so.1")


class _Contexts(threading.local):
    """The primary context that a thread is in, and how often it was entered: that of the other libraries of
    this process, since one of our own would cost memory and switches. A thread that ends with it, or an
    interpreter, would be aborted by pycuda.
    """

    def __init__(self) -> None:
        self._index = self._count = 0
        self._context: Any = None

    def enter(self, index: int) -> None:
        """Make the context of a GPU current on this thread."""
        if self._count and index != self._index:
            raise BackendError(
                f"GPU {self._index} is open on this thread: open GPU {index} on a thread of its own"
            )
        if not self._count:
            self._context = driver.Device(index).retain_primary_context()
            try:
                self._context.push()
            except BaseException:
                # pycuda's destructor does not release a primary context.
                self._context.detach()
                raise
        self._index, self._count = index, self._count + 1

    def leave(self) -> None:
        """Leave it, when this was called as often as :meth:`enter`."""
        self._count -= 1
        if not self._count:
            context, self._context = self._context, None
            # pycuda's own pop would have it push the context again to release it, and leave it there.
            current = ctypes.c_void_p()
            _library.cuCtxGetCurrent(ctypes.byref(current))
            if current.value == context.handle:
                _library.cuCtxPopCurrent_v2(ctypes.byref(current))
            context.detach()

    def leave_for_good(self) -> None:
        """Leave it in any case, at the end of the interpreter."""
        if self._count:
            self._count = 1
            self.leave()


_contexts = _Contexts()
atexit.register(_contexts.leave_for_good)


@dataclass(frozen=True)
class CudaBuffer:
    """See :class:`~jepa_runtime.backends.tensorrt.gpu.Buffer`."""

    host: Array
    memory: Any

    @property
    def address(self) -> int:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Buffer`."""
        return int(self.memory)


class Cuda:
    """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`.

    Args:
        index: which GPU, as CUDA numbers them.

    Raises:
        BackendError: there is no such GPU, its driver does not run, or this thread has another one open.
    """

    def __init__(self, index: int) -> None:
        with _told("the GPU cannot be used"):
            driver.init()
            if index >= (count := driver.Device.count()):
                raise BackendError(f"there is no GPU {index}: CUDA sees {count}")
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
                # Who waits sleeps meanwhile: a core that looks again and again is missing elsewhere.
                sleeping = driver.event_flags.BLOCKING_SYNC
                self._began, self._ended = driver.Event(sleeping), driver.Event(sleeping)
            except BaseException:
                self._stream = self._began = None
                _contexts.leave()
                raise

    @property
    def free_bytes(self) -> int:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told("the GPU does not tell its memory"):
            free = int(driver.mem_get_info()[0])
        # Of memory that is the processor's too, CUDA counts as taken what the system holds of files.
        return max(free, _available_bytes()) if self._integrated else free

    @property
    def stream(self) -> int:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        return int(self._stream.handle)

    def buffer(self, shape: Shape, dtype: type) -> CudaBuffer:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told(f"a buffer of {list(shape)} cannot be had"):
            host = driver.pagelocked_zeros(shape, dtype)
            memory = driver.mem_alloc(host.nbytes)
            driver.memset_d8_async(memory, 0, host.nbytes, self._stream)
            self._stream.synchronize()
            return CudaBuffer(host, memory)

    def upload(self, buffer: Buffer) -> None:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told("a copy to the GPU failed"):
            driver.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told("a copy from the GPU failed"):
            driver.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def load_kernel(self, path: Path) -> None:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told(f"{path} cannot be loaded"):
            self._kernel = driver.module_from_file(str(path)).get_function(ENTRY_POINT)

    def launch(self, kernel: Launch) -> None:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        with _told(f"{ENTRY_POINT} cannot be launched"):
            self._kernel(*kernel.arguments, grid=kernel.grid, block=kernel.block, stream=self._stream)

    def record(self, work: Work) -> Work:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        return self._graphs.record(work, self.stream)

    def run(self, work: Work) -> float:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        try:
            with _told("the GPU failed"):
                self._began.record(self._stream)
                work()
                self._ended.record(self._stream)
                # A time that is taken before the GPU is done is one of the launch.
                self._ended.synchronize()
                return float(self._ended.time_since(self._began))
        except BackendError as error:
            # After such an error (CUDA_ERROR_ILLEGAL_ADDRESS, cuda.h) every later call returns it again.
            if _library.cuCtxSynchronize():
                raise DeviceLostError(f"{error}: CUDA does nothing more for this process") from error
            raise

    def close(self) -> None:
        """See :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu`."""
        if self._stream is None:
            return
        self._stream = self._began = self._ended = None
        self._kernel = None
        with _told("the GPU cannot be left"):
            _contexts.leave()


class _Graphs:
    """CUDA graphs, which pycuda does not know."""

    def record(self, work: Work, stream: int) -> Work:
        handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
        try:
            try:
                work()
            finally:
                # Also after an error: a stream that captures does nothing else.
                ended = _library.cuStreamEndCapture(handle, ctypes.byref(graph))
            self._check("cuStreamEndCapture", ended)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                _library.cuGraphDestroy(graph)

        def launch() -> None:
            self._call("cuGraphLaunch", executable, handle)

        # At the interpreter's end the context is gone, and the graph with it.
        weakref.finalize(launch, _library.cuGraphExecDestroy, executable).atexit = False
        return launch

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(_library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if status:
            name = ctypes.c_char_p()
            _library.cuGetErrorName(status, ctypes.byref(name))
            raise BackendError(f"CUDA: {function} failed: {(name.value or b'unknown').decode('ascii')}")


def _available_bytes() -> int:
    """What the system can give without swapping."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
    return int(found[1]) << 10 if found else 0


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except driver.MemoryError as error:
        raise BackendError(
            f"{what}: the GPU's memory does not suffice: end what else uses it, or ask for a smaller "
            f"num_samples ({error})"
        ) from error
    except driver.Error as error:
        raise BackendError(f"{what}: {error}") from error
