"""MuJoCo, with a renderer that works without a display."""

from __future__ import annotations

from ctypes import ArgumentError

from jepa_runtime.errors import WorldError
from jepa_sim.worlds.mujoco_gl import INSTALL, choose_renderer

choose_renderer("first_person_mujoco")
try:
    import mujoco
except ImportError as error:
    raise WorldError(
        f"first_person_mujoco: MuJoCo cannot be loaded: {error}: pip install 'jepa-edge[worlds]'",
        code="sim.missing_package",
    ) from error
except (ArgumentError, AttributeError) as error:  # What PyOpenGL raises without its libraries.
    raise WorldError(
        f"first_person_mujoco: no renderer: OpenGL cannot be loaded: {error}: {INSTALL}",
        code="sim.no_renderer",
    ) from error

__all__ = ["mujoco"]
