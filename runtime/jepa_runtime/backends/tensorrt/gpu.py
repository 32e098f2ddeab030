"""What TensorRT's backend asks of a GPU, so that all calls of CUDA lie in one file (:mod:`.cuda`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jepa_runtime.backends.base import Array, Shape
from jepa_runtime.backends.tensorrt.kernels import Launch

Work = Callable[[], None]
"""Puts work on the stream, and does not wait for it."""


class Buffer(Protocol):
    """Page-locked memory of the host, and as much on the GPU."""

    @property
    def host(self) -> Array:
        """The host's part."""

    @property
    def address(self) -> int:
        """Where the GPU's part lies."""


class Gpu(Protocol):
    """One GPU: its primary context, current on the thread that opens it, and one stream.

    All methods raise BackendError if the driver refuses, or the memory does not suffice.
    """

    @property
    def name(self) -> str:
        """As its maker calls it."""

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Which code it runs: (8, 7) for Jetson Orin."""

    @property
    def multiprocessors(self) -> int:
        """How many work; modules of one name, and power modes of one module, differ in it."""

    @property
    def driver(self) -> str:
        """Version of CUDA that its driver offers."""

    @property
    def free_bytes(self) -> int:
        """Memory that can be had; on a Jetson of the whole machine, also what the system holds of files."""

    @property
    def stream(self) -> int:
        """Handle of the stream."""

    def buffer(self, shape: Shape, dtype: type) -> Buffer:
        """Memory for an array, zero on both sides."""

    def upload(self, buffer: Buffer) -> None:
        """Put a copy from host to GPU on the stream."""

    def download(self, buffer: Buffer) -> None:
        """Put a copy from GPU to host on the stream."""

    def load_kernel(self, path: Path) -> None:
        """Make the kernel of a file of ``python -m jepa_export.targets.kernels`` known."""

    def launch(self, kernel: Launch) -> None:
        """Put the kernel, which is known, on the stream."""

    def record(self, work: Work) -> Work:
        """The same work as one CUDA graph, which costs one launch. ``work`` has run before."""

    def run(self, work: Work) -> float:
        """Do the work and wait for it.

        Returns:
            How long the GPU had it, by its own clock (ms).

        Raises:
            DeviceLostError: it failed, and so will every later call.
        """

    def close(self) -> None:
        """Give stream and context back, when nobody uses buffers or graphs any more."""
