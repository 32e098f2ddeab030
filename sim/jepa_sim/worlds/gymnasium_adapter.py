"""Environments of Gymnasium as worlds.

Gymnasium and MuJoCo are the extra ``worlds``. They are imported when a world is created.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jepa_runtime.errors import WorldError
from jepa_sim.worlds.interface import Image
from jepa_sim.worlds.mujoco_gl import choose_renderer

FRAME_PX = 128
_INSTALL = "pip install 'jepa-edge[worlds]'"


def make_environment(name: str, **settings: Any) -> Any:
    """Create the MuJoCo environment of this name without wrappers (no time limit).

    It renders images of :data:`FRAME_PX` x :data:`FRAME_PX`.

    Raises:
        WorldError: It cannot be created, or there is no renderer.
    """
    choose_renderer(name)
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
