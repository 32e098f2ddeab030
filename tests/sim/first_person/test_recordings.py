"""Recordings at moments between ticks."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.util import wrap
from jepa_sim.worlds.first_person.motion import TICK_S
from jepa_sim.worlds.first_person.recordings import Recording


@pytest.mark.parametrize("sign", [1, -1])
def test_recording_between_ticks_turns_the_short_way_past_half_a_turn(sign: int) -> None:
    headings = sign * (math.pi + np.array([-0.03, -0.01, 0.01, 0.03]))
    wrapped = np.array([[1.0, 2.0, wrap(heading)] for heading in headings])
    commands = np.array([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.0, 0.0]])
    recording = Recording(poses=wrapped, odometry=wrapped, commands=commands)
    between = recording.at(np.array([0.5, 1.5, 2.5]) * TICK_S)
    np.testing.assert_array_equal(between.commands, commands[:3])
    for poses in (between.poses, between.odometry):
        off = poses[:, 2] - sign * (math.pi + np.array([-0.02, 0.0, 0.02]))
        np.testing.assert_allclose([wrap(angle) for angle in off], 0.0, atol=1e-12)
        np.testing.assert_allclose(poses[:, :2], [[1.0, 2.0]] * 3)
