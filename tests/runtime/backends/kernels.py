"""The reference of the kernel, and its emulation on a CPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from jepa_runtime.backends.tensorrt.kernels import Launch, launch
from jepa_runtime.backends.tensorrt.kernels.fatbin import PACKAGE
from jepa_runtime.imaging.conversion import Image, resize_into

Size = tuple[int, int]


def oracle(image: Image, size: Size) -> Image:
    """Resize an image to (height, width) on the CPU."""
    created = np.empty((*size, 3), np.uint8)
    resize_into(image, created)
    return created


def levels_apart(result: Image, expected: Image) -> int:
    """Return the largest difference of two images."""
    return int(np.abs(result.astype(int) - expected.astype(int)).max())


def random_image(size: Size, seed: int) -> Image:
    """Return an image of noise, in which each pixel matters."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def compile_emulation(folder: Path) -> Path:
    """A program in ``folder`` that runs the kernel on this CPU, under the sanitizers for addresses and
    undefined behavior. It requires g++."""
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

    def run(self, described: Launch, data: bytes, room: Size) -> Image:
        """Return the content of an image of size ``room`` after a launch with ``data`` as its image.

        Raises:
            AssertionError: The kernel accessed other memory; with the sanitizer's message.
        """
        (argument,) = described.arguments
        created = np.empty((*room, 3), np.uint8)
        head = np.array([*described.grid, *described.block], np.int32)
        sizes = np.array([argument.nbytes, len(data), created.nbytes], np.int64)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(head.tobytes() + sizes.tobytes() + argument.tobytes() + data)
        self._process.stdin.flush()
        answer = self._process.stdout.read(created.nbytes)
        if len(answer) != created.nbytes:
            raise AssertionError(self._process.communicate()[1].decode())
        return np.frombuffer(answer, np.uint8).reshape(created.shape)

    def scaled(self, image: Image, size: Size) -> Image:
        """Resize an image."""
        return self.run(launch(0, image.shape[:2], 0, size), image.tobytes(), size)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
