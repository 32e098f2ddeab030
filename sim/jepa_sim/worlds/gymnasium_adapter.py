"""Worlds that others wrote, through Gymnasium. Its package, and what a world itself needs, are the extra
``worlds``: no robot needs them, and they are imported when a world is made."""

from __future__ import annotations

import os
from ctypes.util import find_library
from typing import Any

import numpy as np

from jepa_runtime.errors import WorldError
from jepa_sim.worlds.interface import Image

FRAME_PX = 128
_INSTALL = "pip install 'jepa-edge[worlds]'"


def make_environment(name: str, **settings: Any) -> Any:
    """The MuJoCo environment of this name without its wrappers (no time limit), which draws frames of
    :data:`FRAME_PX` x :data:`FRAME_PX`.

    Raises:
        WorldError: it cannot be made, or nothing can be drawn here.
    """
    _choose_renderer(name)
    try:
        import gymnasium
    except ImportError as error:
        raise WorldError(f"{name}: gymnasium is not installed: {_INSTALL}") from error
    try:
        made = gymnasium.make(name, render_mode="rgb_array", width=FRAME_PX, height=FRAME_PX, **settings)
    except (ImportError, gymnasium.error.Error) as error:
        raise WorldError(f"{name}: cannot be made: {error}: {_INSTALL}") from error
    return made.unwrapped


def frame_of(environment: Any) -> Image:
    """What the environment draws now, uint8 [h, w, 3] RGB."""
    frame: Image = np.ascontiguousarray(environment.render(), np.uint8)
    return frame


def _choose_renderer(name: str) -> None:
    """MuJoCo asks the environment, at its import, what to draw with; told nothing, it takes a window."""
    if "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ:
        return
    if find_library("EGL") is None:
        raise WorldError(
            f"{name}: nothing to draw with: without a display MuJoCo needs libEGL: "
            "apt install libegl1 libgl1-mesa-dri"
        )
    os.environ["MUJOCO_GL"] = "egl"
