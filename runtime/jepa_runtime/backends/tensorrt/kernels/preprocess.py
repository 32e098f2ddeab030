"""Launch arguments of ``preprocess.cu``, which resizes a camera image on the GPU to the input of an encoder.

The caller launches it with PyCUDA:
``module.get_function(ENTRY_POINT)(*described.arguments, grid=…, block=…, stream=…)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import Shape
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.pixel_formats import plan_scaling

ENTRY_POINT = "scale"
"""The name of the kernel in the compiled file."""

_BLOCK = (32, 8, 1)
# Up to these limits the kernel's integers do not overflow, and rounding adds less than half a level.
_MAX_SIDE, _MAX_FACTOR = 16384, 2048
_JOB = np.dtype(
    [
        ("image", np.uint64),
        ("frame", np.uint64),
        ("width", np.int32),
        ("height", np.int32),
        ("factor", np.int32),
        ("averaged", np.int32),
        ("out_width", np.int32),
        ("out_height", np.int32),
    ]
)


@dataclass(frozen=True, eq=False)
class Launch:
    """Represent the launch arguments of the kernel, as PyCUDA's ``Function`` takes them.

    Attributes:
        grid: The number of blocks on each axis.
        block: The number of threads on each axis.
        arguments: One structure, passed by value.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[NDArray[Any], ...]


def launch(image: int, size: Shape, frame: int, out_size: Shape) -> Launch:
    """Return the launch that resizes an image; levels differ from ``imaging.resize_into`` by at most one.

    Args:
        image: The GPU address of an image, uint8 [h, w, 3].
        size: Its height and width.
        frame: The GPU address of the result, uint8 [height, width, 3].
        out_size: The height and width of the result.

    Raises:
        FrameError: The image is too large for the kernel, or for this size of the result.
    """
    (height, width), (out_height, out_width) = size, out_size
    steps = plan_scaling(height, width, out_height, out_width)
    if max(*size, *out_size) > _MAX_SIDE or steps.factor > _MAX_FACTOR:
        raise FrameError(
            f"image of {width} x {height} is too large to be resized to {out_width} x {out_height} on the "
            "GPU: send a smaller one",
            code="frame.too_large",
        )
    job = np.zeros((), _JOB)
    job["image"], job["frame"] = image, frame
    job["width"], job["height"] = width // steps.factor, height // steps.factor
    job["factor"], job["averaged"] = steps.factor, steps.averaged
    job["out_width"], job["out_height"] = out_width, out_height
    return Launch((-(-out_width // _BLOCK[0]), -(-out_height // _BLOCK[1]), 1), _BLOCK, (job,))
