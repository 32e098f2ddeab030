"""How ``preprocess.cu`` is launched: from a camera's image on the GPU to the input tensor of an engine.

A description only: whoever has the module and a stream calls
``module.get_function(described.entry)(*described.arguments, grid=…, block=…, stream=…)`` (pycuda)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import BackendError, FrameError
from jepa_runtime.pixels import ENCODINGS, RawLayout, scaling

ENTRY_POINTS = ("interleaved_to_uint8", "interleaved_to_float32", "paired_to_uint8", "paired_to_float32")

_BLOCK = (32, 8, 1)
# Up to here the kernel's integers do not overflow, and rounding adds up to less than half a level.
_MOST_SIDE, _MOST_FACTOR = 16384, 2048
_JOB = np.dtype(
    [
        ("image", np.uint64),
        ("tensor", np.uint64),
        ("step", np.int32),
        ("width", np.int32),
        ("height", np.int32),
        ("factor", np.int32),
        ("averaged", np.int32),
        ("out_width", np.int32),
        ("out_height", np.int32),
        ("pixel_bytes", np.int32),
        ("channels", np.int32, 3),
        ("strides", np.int32, 3),
        ("scale", np.float32, 3),
        ("offset", np.float32, 3),
    ]
)


@dataclass(frozen=True)
class Normalisation:
    """``(level / 255 - mean) / std`` for red, green and blue.

    Raises:
        BackendError: a standard deviation is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise BackendError(f"standard deviations must be positive, got {list(self.std)}")


@dataclass(frozen=True, kw_only=True)
class ImageTensor:
    """The input of an engine, one RGB image.

    Attributes:
        height, width: pixels.
        channels_first: [1, 3, height, width] rather than [1, height, width, 3].
        normalisation: of a float32 tensor; None: the tensor is uint8, and the graph normalises.

    Raises:
        BackendError: it has no pixels.
    """

    height: int
    width: int
    channels_first: bool = False
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise BackendError(f"tensor of {self.width} x {self.height} has no pixels")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Its shape, the batch of one included."""
        if self.channels_first:
            return 1, 3, self.height, self.width
        return 1, self.height, self.width, 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return np.dtype(np.uint8 if self.normalisation is None else np.float32)

    @property
    def strides(self) -> tuple[int, int, int]:
        """Elements from one pixel, row and channel to the next."""
        if self.channels_first:
            return 1, self.width, self.height * self.width
        return 3, 3 * self.width, 1


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel and all that it is launched with, as pycuda's ``Function`` takes it.

    Attributes:
        entry: one of :data:`ENTRY_POINTS`.
        grid, block: blocks and threads on each axis.
        arguments: one structure, passed by value.
    """

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[NDArray[Any], ...]


def launch(layout: RawLayout, image: int, tensor: ImageTensor, address: int) -> Launch:
    """What makes the tensor of an image: the levels of ``imaging.to_rgb`` and ``imaging.fit``, within one.

    Args:
        layout: of the image, of which ``layout.needed_bytes`` are on the GPU.
        image: where these bytes are, for the GPU.
        address: where the tensor is, of its shape and type in C order.

    Raises:
        FrameError: the image is too large for the kernel, alone or beside this tensor.
    """
    steps = scaling(layout.height, layout.width, tensor.height, tensor.width)
    side = max(layout.height, layout.width, tensor.height, tensor.width)
    if side > _MOST_SIDE or steps.factor > _MOST_FACTOR or layout.stride > np.iinfo(np.int32).max:
        raise FrameError(
            f"image of {layout.width} x {layout.height}, step {layout.stride}, is too large to be scaled to "
            f"{tensor.width} x {tensor.height} on the GPU: send a smaller one"
        )
    encoding = ENCODINGS[layout.encoding]
    job = np.zeros((), _JOB)
    job["image"], job["tensor"], job["step"] = image, address, layout.stride
    job["width"], job["height"] = layout.width // steps.factor, layout.height // steps.factor
    job["factor"], job["averaged"] = steps.factor, steps.averaged
    job["out_width"], job["out_height"] = tensor.width, tensor.height
    job["pixel_bytes"], job["channels"] = encoding.pixel_bytes, encoding.channels
    job["strides"] = tensor.strides
    job["scale"], job["offset"] = _scale_and_offset(tensor.normalisation)
    source = "paired" if encoding.paired else "interleaved"
    grid = (-(-tensor.width // _BLOCK[0]), -(-tensor.height // _BLOCK[1]), 1)
    return Launch(f"{source}_to_{tensor.dtype.name}", grid, _BLOCK, (job,))


def _scale_and_offset(normalisation: Normalisation | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if normalisation is None:
        return np.ones(3), np.zeros(3)
    mean, std = np.array(normalisation.mean), np.array(normalisation.std)
    return 1 / (255 * std), -mean / std
