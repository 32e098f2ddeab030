"""The interface of a GPU for the TensorRT backend. All CUDA calls are in :mod:`.cuda`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jepa_runtime.backends.base import Array, Shape
from jepa_runtime.backends.tensorrt.kernels import Launch

Work = Callable[[], None]
"""Enqueues work on the stream without waiting for it."""


class Buffer(Protocol):
    """Page-locked host memory and GPU memory of the same size."""

    @property
    def host(self) -> Array:
        """The host memory."""

    @property
    def address(self) -> int:
        """The address of the GPU memory."""


class Gpu(Protocol):
    """One GPU: its primary context, current on the thread that opens it, and one stream.

    All methods raise BackendError if the driver fails or memory is exhausted.
    """

    @property
    def name(self) -> str:
        """The product name."""

    @property
    def compute_capability(self) -> tuple[int, int]:
        """The compute capability, such as (8, 7) for Jetson Orin."""

    @property
    def multiprocessors(self) -> int:
        """The number of active multiprocessors, which differs between modules of one name and power modes."""

    @property
    def driver(self) -> str:
        """The CUDA version of the driver."""

    @property
    def free_bytes(self) -> int:
        """The available memory; on a Jetson that of the whole machine, including the page cache."""

    @property
    def stream(self) -> int:
        """The handle of the stream."""

    def buffer(self, shape: Shape, dtype: type) -> Buffer:
        """Allocate memory for an array, filled with zeros on both sides."""

    def upload(self, buffer: Buffer) -> None:
        """Enqueue a copy from host to GPU."""

    def download(self, buffer: Buffer) -> None:
        """Enqueue a copy from GPU to host."""

    def load_kernel(self, path: Path) -> None:
        """Load the kernel from a file that ``python -m jepa_export.targets.kernels`` compiled."""

    def launch(self, kernel: Launch) -> None:
        """Enqueue the loaded kernel."""

    def record(self, work: Work) -> Work:
        """Capture work that has run before as one CUDA graph, which needs one launch."""

    def run(self, work: Work) -> float:
        """Run the work and wait for it.

        Returns:
            The time on the GPU's clock (ms).

        Raises:
            DeviceLostError: It failed, and so will every later call.
        """

    def close(self) -> None:
        """Release stream and context, after all buffers and graphs."""
