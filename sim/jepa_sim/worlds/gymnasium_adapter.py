"""Environments of Gymnasium as worlds.

Gymnasium and MuJoCo are the extra ``worlds``. They are imported when a world is created.
"""

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
    """Create the MuJoCo environment of this name without wrappers (no time limit).

    It renders images of :data:`FRAME_PX` x :data:`FRAME_PX`.

    Raises:
        WorldError: It cannot be created, or there is no renderer.
    """
    _choose_renderer(name)
    try:
        import gymnasium
    except ImportError as error:
        raise WorldError(
            f"{name}: gymnasium is not installed: {_INSTALL}", code="sim.missing_package"
        ) from error
    try:
        environment = gymnasium.make(
            name, render_mode="rgb_array", width=FRAME_PX, height=FRAME_PX, **settings
        )
    except (ImportError, gymnasium.error.Error) as error:
        raise WorldError(
            f"{name}: cannot be created: {error}: {_INSTALL}", code="sim.environment_failed"
        ) from error
    return environment.unwrapped


def frame_of(environment: Any) -> Image:
    """Return the rendered image, uint8 [h, w, 3] RGB."""
    frame: Image = np.ascontiguousarray(environment.render(), np.uint8)
    return frame


def _choose_renderer(name: str) -> None:
    """Choose a renderer without a display; MuJoCo reads the choice when it is imported."""
    if "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ:
        return
    if find_library("EGL") is None:
        raise WorldError(
            f"{name}: no renderer: without a display MuJoCo needs libEGL: "
            "apt install libegl1 libgl1-mesa-dri",
            code="sim.no_renderer",
        )
    os.environ["MUJOCO_GL"] = "egl"
