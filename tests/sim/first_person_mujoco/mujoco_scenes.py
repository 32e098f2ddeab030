"""Scenes for tests, or a skipped module where MuJoCo or its renderer is missing.

MuJoCo reads the choice of its renderer when it is imported, so tests import it through the package only.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from jepa_runtime.errors import WorldError

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
if importlib.util.find_spec("mujoco") is None:
    pytest.skip("mujoco is not installed (extra worlds)", allow_module_level=True)
try:
    from jepa_sim.worlds.first_person_mujoco.scene import MuJoCoScene
except WorldError as error:
    pytest.skip(str(error), allow_module_level=True)

from jepa_sim.worlds.first_person.layouts import Layout
from jepa_sim.worlds.first_person_mujoco.robot import MuJoCoRobot
from tests.sim.first_person.houses import packed, pose


def scene(layout: Layout, seed: int = 0) -> MuJoCoScene:
    return MuJoCoScene(layout, packed(layout), np.random.default_rng(seed))


def robot(layout: Layout, *at: float, seed: int = 0) -> MuJoCoRobot:
    made = scene(layout, seed).robot(pose(*at))
    assert isinstance(made, MuJoCoRobot)
    return made
