"""A simulated GPU: the relevant behavior of the driver, on NumPy arrays.

Work on the stream runs when the caller waits for it, access from other threads is an error, and unreleased
memory is reported.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.tensorrt.kernels import Launch, fatbin_name
from jepa_runtime.errors import BackendError
from jepa_runtime.imaging.conversion import resize_into

Work = Callable[[], None]
BY_STREAM: weakref.WeakValueDictionary[int, SimulatedGpu] = weakref.WeakValueDictionary()
_STREAMS = itertools.count(1000)


@dataclass(eq=False)
class SimulatedBuffer:
    """See :class:`~jepa_runtime.backends.tensorrt.gpu.Buffer`."""

    host: NDArray[Any]
    address: int


class SimulatedGpu:
    """A simulated :class:`~jepa_runtime.backends.tensorrt.gpu.Gpu` with ``memory_bytes`` of memory."""

    name, compute_capability, multiprocessors, driver = "Simulated GPU", (8, 7), 8, "12.6"
    count, memory_bytes = 1, 1 << 30
    records = True

    def __init__(self, index: int) -> None:
        if index >= self.count:
            raise BackendError(f"no GPU {index}: CUDA has {self.count} GPUs", code="backend.device_not_found")
        self.stream = next(_STREAMS)
        self.launches: list[int] = []
        self._thread = threading.get_ident()
        self._memory: dict[int, NDArray[Any]] = {}
        self._pending: list[Work] = []
        self._recording: list[Work] | None = None
        self._addresses = itertools.count(0x10000, 0x1000)
        self.is_open = True
        self._left_bytes = 0
        BY_STREAM[self.stream] = self

    @property
    def leaked(self) -> bool:
        """Whether the GPU was closed while its memory was still referenced."""
        return self._left_bytes > 0

    @property
    def used_bytes(self) -> int:
        """The bytes of referenced buffers."""
        return sum(array.nbytes for array in self._memory.values())

    @property
    def free_bytes(self) -> int:
        return self.memory_bytes - self.used_bytes

    def buffer(self, shape: tuple[int, ...], dtype: type) -> SimulatedBuffer:
        self._check()
        if self.used_bytes + math.prod(shape) * np.dtype(dtype).itemsize > self.memory_bytes:
            raise BackendError(
                f"a buffer of {list(shape)} cannot be allocated: out of GPU memory",
                code="backend.out_of_memory",
            )
        array = np.zeros(shape, dtype)
        buffer = SimulatedBuffer(np.zeros(shape, dtype), next(self._addresses))
        self._memory[buffer.address] = array
        weakref.finalize(buffer, self._memory.pop, buffer.address, None)
        return buffer

    def at(self, address: int) -> NDArray[Any]:
        """Return the GPU memory at an address."""
        return self._memory[address]

    def enqueue(self, work: Work) -> None:
        """Enqueue work on the stream, or in the graph that is being captured."""
        self._check()
        (self._pending if self._recording is None else self._recording).append(work)

    def upload(self, buffer: SimulatedBuffer) -> None:
        device, host = self._memory[buffer.address], buffer.host
        self.enqueue(lambda: np.copyto(device, host))

    def download(self, buffer: SimulatedBuffer) -> None:
        device, host = self._memory[buffer.address], buffer.host
        self.enqueue(lambda: np.copyto(host, device))

    def load_kernel(self, path: Path) -> None:
        assert path.name == fatbin_name()

    def launch(self, kernel: Launch) -> None:
        """Resize as the CPU does; results of the kernel differ by at most one level."""
        (job,) = kernel.arguments
        image, frame = self.at(int(job["image"])), self.at(int(job["frame"]))
        assert (job["height"] * job["factor"], job["width"] * job["factor"]) == image.shape[:2]
        assert (job["out_height"], job["out_width"]) == frame.shape[1:3]
        self.enqueue(lambda: resize_into(image, frame[0]))

    def record(self, work: Work) -> Work:
        self._check()
        if not self.records:
            raise BackendError("CUDA: cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self._recording = recorded = []
        try:
            work()
        finally:
            self._recording = None

        def launch() -> None:
            self._pending.append(lambda: [part() for part in recorded])  # type: ignore[func-returns-value]

        return launch

    def run(self, work: Work) -> float:
        self._check()
        work()
        pending, self._pending = self._pending, []
        self.launches.append(len(pending))
        for part in pending:
            part()
        return 0.25

    def close(self) -> None:
        self._check()
        self.is_open = False
        self._left_bytes = self.used_bytes

    def _check(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError("CUDA: invalid device context: another thread opened it")
        if not self.is_open:
            raise BackendError("CUDA: context is destroyed")
