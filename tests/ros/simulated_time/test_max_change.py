"""Commands change no faster than max_change allows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
from tests.ros.test_command_publisher import commands
from tests.runtime.control.controllers import FRAME_NS, HORIZON, LIMITS, SAMPLES, World

pytestmark = pytest.mark.ros

STEP_NS = 200_000_000


class Base(World):
    """Represent a robot with velocity commands, one per image."""

    def changes(self, images: int, *, nearer: float) -> np.ndarray:
        """Return the changes between successive commands per step, except stops, which are immediate."""
        draws, commands = np.random.default_rng(0), [np.zeros(2)]
        for _ in range(images):
            self.energies = draws.random((SAMPLES, HORIZON), np.float32)
            self.energy *= nearer
            self.image()
            commands.append(self.last_command)
        changes = np.abs(np.diff(commands, axis=0)) * STEP_NS / FRAME_NS
        return changes[np.any(commands[1:], axis=1)]


class Arm(World):
    """Represent a robot with pose deltas, one per step."""

    def __init__(self) -> None:
        super().__init__(per_step=True)
        self.commands, _ = commands("x", "y")

    def obey(self, command, stamp_ns):
        if command is None:
            self.commands.stop()
        else:
            self.commands.send(command, stamp_ns)
        return self.commands.last_command

    def changes(self, images: int, *, nearer: float) -> np.ndarray:
        """Return the changes between successive commands, except stops, which are immediate."""
        draws, commands = np.random.default_rng(0), [np.zeros(2)]
        for _ in range(images):
            self.energies = draws.random((SAMPLES, HORIZON), np.float32)
            self.energy *= nearer
            self.image()
            if self.last_command is not commands[-1]:
                commands.append(self.last_command)
        return np.abs(np.diff(commands, axis=0))[np.any(commands[1:], axis=1)]


@pytest.mark.parametrize(
    ("robot", "nearer"),
    # Without progress the robot is stuck repeatedly and executes recovery motions.
    [(Base, 0.995), (Base, 1.0), (Arm, 0.995), (Arm, 1.0)],
)
def test_consecutive_commands_change_by_at_most_the_limit(robot, nearer):
    changes = robot().changes(1600, nearer=nearer)
    np.testing.assert_allclose(changes.max(axis=0), LIMITS.max_change, atol=1e-6)
