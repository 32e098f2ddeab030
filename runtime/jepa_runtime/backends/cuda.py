"""All calls of CUDA: by pycuda; what that lacks (graphs) by the driver's own library.

Memory and graphs are given back when nobody refers to them; :class:`~jepa_runtime.backends.gpu.Gpu` says
what each method does.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycuda.driver as driver

from jepa_runtime.backends.base import Array, Shape
from jepa_runtime.backends.gpu import Buffer, Work
from jepa_runtime.backends.kernels import ENTRY_POINTS, Launch
from jepa_runtime.errors import BackendError

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do with CUDA meanwhile is their own affair.
_THREAD_LOCAL = 1


@dataclass(frozen=True)
class CudaBuffer:
    """See :class:`~jepa_runtime.backends.gpu.Buffer`."""

    host: Array
    memory: Any

    @property
    def address(self) -> int:
        """See :class:`~jepa_runtime.backends.gpu.Buffer`."""
        return int(self.memory)


class Cuda:
    """See :class:`~jepa_runtime.backends.gpu.Gpu`.

    Args:
        index: which GPU, as CUDA numbers them.

    Raises:
        BackendError: there is no such GPU, or its driver does not run.
    """

    def __init__(self, index: int) -> None:
        with _told("the GPU cannot be used"):
            driver.init()
            if index >= (count := driver.Device.count()):
                raise BackendError(f"there is no GPU {index}: CUDA sees {count}")
            device = driver.Device(index)
            self.name: str = device.name()
            self.compute_capability: tuple[int, int] = device.compute_capability()
            number = driver.get_driver_version()
            self.driver = f"{number // 1000}.{number % 1000 // 10}"
            # That of other libraries of this process; one of our own would cost memory and switches.
            self._context = device.retain_primary_context()
            self._context.push()
            self._stream: Any = driver.Stream()
            # Who waits sleeps meanwhile: a core that looks again and again is missing elsewhere on a robot.
            sleeping = driver.event_flags.BLOCKING_SYNC
            self._began, self._ended = driver.Event(sleeping), driver.Event(sleeping)
        self._graphs = _Graphs()
        self._kernels: dict[str, Any] = {}

    @property
    def stream(self) -> int:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        return int(self._stream.handle)

    def buffer(self, shape: Shape, dtype: type) -> CudaBuffer:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told(f"a buffer of {list(shape)} cannot be had"):
            host = driver.pagelocked_zeros(shape, dtype)
            memory = driver.mem_alloc(host.nbytes)
            driver.memset_d8(memory, 0, host.nbytes)
            return CudaBuffer(host, memory)

    def upload(self, buffer: Buffer) -> None:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told("a copy to the GPU failed"):
            driver.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told("a copy from the GPU failed"):
            driver.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def load_kernels(self, path: Path) -> None:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told(f"{path} cannot be loaded"):
            module = driver.module_from_file(str(path))
            self._kernels = {entry: module.get_function(entry) for entry in ENTRY_POINTS}

    def launch(self, kernel: Launch) -> None:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told(f"{kernel.entry} cannot be launched"):
            self._kernels[kernel.entry](
                *kernel.arguments, grid=kernel.grid, block=kernel.block, stream=self._stream
            )

    def record(self, work: Work) -> Work:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        return self._graphs.record(work, self.stream)

    def run(self, work: Work) -> float:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        with _told("the GPU failed"):
            self._began.record(self._stream)
            work()
            self._ended.record(self._stream)
            # A time that is taken before the GPU is done is one of the launch.
            self._ended.synchronize()
            return float(self._ended.time_since(self._began))

    def close(self) -> None:
        """See :class:`~jepa_runtime.backends.gpu.Gpu`."""
        if self._stream is None:
            return
        self._stream = self._began = self._ended = None
        self._kernels = {}
        driver.Context.pop()
        self._context.detach()


class _Graphs:
    """CUDA graphs, which pycuda does not know. libcuda is loaded already: by pycuda."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def record(self, work: Work, stream: int) -> Work:
        handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
        try:
            work()
        finally:
            # Also after an error: a stream that captures does nothing else.
            ended = self._library.cuStreamEndCapture(handle, ctypes.byref(graph))
        self._check("cuStreamEndCapture", ended)
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._library.cuGraphDestroy(graph)

        def launch() -> None:
            self._call("cuGraphLaunch", executable, handle)

        weakref.finalize(launch, self._library.cuGraphExecDestroy, executable)
        return launch

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self._library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if status:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(name))
            raise BackendError(f"CUDA: {function} failed: {(name.value or b'unknown').decode('ascii')}")


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
