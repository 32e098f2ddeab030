"""How ``preprocess.cu`` is launched: from a camera's image on the GPU to the input of an encoder.

A description only: whoever has the module and a stream calls
``module.get_function(ENTRY_POINT)(*described.arguments, grid=…, block=…, stream=…)`` (pycuda)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import Shape
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.pixel_formats import plan_scaling

ENTRY_POINT = "scale"

_BLOCK = (32, 8, 1)
# Up to here the kernel's integers do not overflow, and rounding adds up to less than half a level.
_MOST_SIDE, _MOST_FACTOR = 16384, 2048
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
    """All that the kernel is launched with, as pycuda's ``Function`` takes it.

    Attributes:
        grid, block: blocks and threads on each axis.
        arguments: one structure, passed by value.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[NDArray[Any], ...]


def launch(image: int, size: Shape, frame: int, out_size: Shape) -> Launch:
    """What makes the levels of ``imaging.resize_into``, within one.

    Args:
        image: where an image uint8 [h, w, 3] is, for the GPU.
        size: its h and w.
        frame: where the same is to be, uint8 [height, width, 3].
        out_size: height and width.

    Raises:
        FrameError: the image is too large for the kernel, alone or beside this size.
    """
    (height, width), (out_height, out_width) = size, out_size
    steps = plan_scaling(height, width, out_height, out_width)
    if max(*size, *out_size) > _MOST_SIDE or steps.factor > _MOST_FACTOR:
        raise FrameError(
            f"image of {width} x {height} is too large to be scaled to {out_width} x {out_height} on the "
            "GPU: send a smaller one"
        )
    job = np.zeros((), _JOB)
    job["image"], job["frame"] = image, frame
    job["width"], job["height"] = width // steps.factor, height // steps.factor
    job["factor"], job["averaged"] = steps.factor, steps.averaged
    job["out_width"], job["out_height"] = out_width, out_height
    return Launch((-(-out_width // _BLOCK[0]), -(-out_height // _BLOCK[1]), 1), _BLOCK, (job,))
