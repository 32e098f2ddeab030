"""The kernel's oracle, and its emulation on a CPU."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.kernels import ENTRY_POINTS, ImageTensor, Launch, Normalisation, launch
from jepa_runtime.backends.kernels.fatbin import PACKAGE
from jepa_runtime.imaging import fit, to_rgb
from jepa_runtime.pixels import RawLayout

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def oracle(data: bytes, layout: RawLayout, tensor: ImageTensor) -> NDArray[Any]:
    """The tensor as the CPU makes it."""
    levels = np.empty((tensor.height, tensor.width, 3), np.uint8)
    fit(to_rgb(data, layout.encoding, layout.width, layout.height, layout.step), levels)
    made: NDArray[Any] = levels
    if (given := tensor.normalisation) is not None:
        made = ((levels / 255 - np.array(given.mean)) / np.array(given.std)).astype(np.float32)
    return (made.transpose(2, 0, 1) if tensor.channels_first else made)[None]


def levels_apart(found: NDArray[Any], expected: NDArray[Any], tensor: ImageTensor) -> float:
    """The largest difference of two tensors, in levels of the image."""
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if tensor.normalisation is not None:
        std = np.array(tensor.normalisation.std) * 255
        apart *= std[:, None, None] if tensor.channels_first else std
    return float(apart.max())


def random_image(layout: RawLayout, seed: int) -> bytes:
    """Noise, in which each pixel counts."""
    return np.random.default_rng(seed).bytes(layout.needed_bytes)


def compile_emulation(folder: Path) -> Path:
    """A program in ``folder`` that runs the kernel on this CPU, under the sanitizers for addresses and
    undefined behaviour. Needs g++."""
    program = folder / "kernel"
    source = Path(__file__).with_name("emulated_cuda.cpp")
    sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", *sanitized]
    kernel = f'-DSOURCE="{PACKAGE / "preprocess.cu"}"'
    subprocess.run(["g++", *flags, kernel, source, "-o", program], check=True, timeout=100)
    return program


class Emulation:
    """A process of that program."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, described: Launch, data: bytes, tensor: ImageTensor) -> NDArray[Any]:
        """What the launch leaves in the tensor.

        Raises:
            AssertionError: the kernel touched what is not its own; with what the sanitizer said.
        """
        (argument,) = described.arguments
        made = np.empty(tensor.shape, tensor.dtype)
        head = np.array([ENTRY_POINTS.index(described.entry), *described.grid, *described.block], np.int32)
        sizes = np.array([argument.nbytes, len(data), made.nbytes], np.int64)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(head.tobytes() + sizes.tobytes() + argument.tobytes() + data)
        self._process.stdin.flush()
        answer = self._process.stdout.read(made.nbytes)
        if len(answer) != made.nbytes:
            raise AssertionError(self._process.communicate()[1].decode())
        return np.frombuffer(answer, made.dtype).reshape(made.shape)

    def prepare(self, data: bytes, layout: RawLayout, tensor: ImageTensor) -> NDArray[Any]:
        """The tensor of an image."""
        return self.run(launch(layout, 0, tensor, 0), data, tensor)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
