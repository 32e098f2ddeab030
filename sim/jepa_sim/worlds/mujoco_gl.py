"""Where MuJoCo draws: a display if there is one, otherwise libEGL, which draws on the CPU without a GPU."""

from __future__ import annotations

import os
from ctypes.util import find_library

from jepa_runtime.errors import WorldError

# On a bare Debian 13 these suffice; libegl1 brings Mesa's software renderer there, libgl1-mesa-dri elsewhere.
INSTALL = "apt install libegl1 libopengl0 libgl1-mesa-dri"


def choose_renderer(name: str) -> None:
    """Choose the library that MuJoCo draws with; MuJoCo reads the choice when it is imported.

    Args:
        name: Name of the world, for the error.

    Raises:
        WorldError: There is no display, and libEGL or OpenGL is missing.
    """
    if "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ:
        return
    if find_library("EGL") is None or not (find_library("OpenGL") or find_library("GL")):
        raise WorldError(
            f"{name}: no renderer: without a display MuJoCo needs libEGL and libOpenGL: {INSTALL}",
            code="sim.no_renderer",
        )
    os.environ["MUJOCO_GL"] = "egl"
