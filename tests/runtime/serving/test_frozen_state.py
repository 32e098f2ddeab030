"""A driver that repeats a state with new stamps, against robots that do not move."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle, Manifest
from jepa_runtime.bundle.manifest import StateSpec
from jepa_runtime.serving import FrozenStateCheck

MS = 1_000_000
STEP_MS = 200
MOVE = np.array([0.02, 0, 0, 0, 0, 0, 0], np.float32)
GRIP = np.array([0, 0, 0, 0, 0, 0, 0.3], np.float32)


@pytest.fixture(scope="module")
def manifest(arm_bundle: Path) -> Manifest:
    return Bundle.open(arm_bundle).manifest


class Robot:
    """An arm with a camera of 20 Hz, whose state is measured at each image."""

    def __init__(self, manifest: Manifest) -> None:
        self.check = FrozenStateCheck(manifest)
        self.stamp_ns = 10**9
        self.state = np.linspace(0.1, 0.7, 7, dtype=np.float32)

    def run(
        self,
        seconds: float,
        *,
        executed: Any = MOVE,
        response: Any = 1.0,
        moving: Any = (),
        stream: str = "",
        **marks: bool,
    ) -> str:
        """Return the reason after this time; ``moving``: components of the state that change."""
        for index in range(round(seconds * 20)):
            self.stamp_ns += 50 * MS
            for component in moving:
                self.state[component] += np.float32(1e-4)
            self.check.add_state(self.stamp_ns, self.state.copy())
            shown = response(index) if callable(response) else response
            result = SimpleNamespace(
                stamp_ns=self.stamp_ns,
                stream=stream,
                executed=executed,
                response=shown,
                **{"surprising": False, "discontinuous": False} | marks,
            )
            self.check.add_result(result)  # type: ignore[arg-type]
        return self.check.reason


def test_same_state_while_images_show_motion_is_reported_until_it_changes(manifest: Manifest) -> None:
    robot = Robot(manifest)
    assert robot.run(5.0, moving=[0]) == ""
    assert robot.run(0.8) == "", "less than four steps of motion"
    reason = robot.run(0.6)
    assert "x, y, z, roll, pitch, yaw" in reason and "driver" in reason
    # The planner stops the robot: nothing is executed or shown, and the state stays the same.
    assert robot.run(5.0, executed=None, response=math.nan) == reason
    assert robot.run(0.1, moving=[2], executed=None, response=math.nan) == ""
    assert robot.run(1.4) != "", "it freezes again"


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("at rest", {"executed": MOVE * 0, "response": math.nan}),
        ("at rest, with commands as small as noise", {"executed": MOVE * 0.05, "response": 1.0}),
        ("held by a limit switch", {"response": 0.0}),
        ("held, while the predicted change is too small to be seen", {"response": math.nan}),
        ("held, and something else moves", {"response": lambda index: 1.5 * math.sin(index)}),
        ("held, in front of a scene that surprises the model", {"surprising": True}),
        ("held, with images of two cameras in turn", {"discontinuous": True}),
        ("held, while the scene changes more than its motion would", {"response": 2.0}),
        ("moving", {"moving": [4]}),
        ("closing its gripper", {"executed": GRIP}),
        ("closing its gripper, while it is held", {"executed": GRIP + MOVE}),
        ("without a prediction", {"executed": None, "response": math.nan}),
    ],
)
def test_robot_without_the_fault_is_never_reported(
    what: str, given: dict[str, Any], manifest: Manifest
) -> None:
    assert Robot(manifest).run(60.0, **given) == "", what


def test_state_whose_gripper_still_changes_is_reported(manifest: Manifest) -> None:
    assert Robot(manifest).run(2.0, moving=[6]) != ""


def test_motion_before_the_state_froze_does_not_count(manifest: Manifest) -> None:
    robot = Robot(manifest)
    robot.run(10.0, moving=[0])
    assert robot.run(0.8, executed=MOVE) == ""
    assert robot.run(10.0, executed=MOVE * 0, response=math.nan) == ""


def test_cameras_are_counted_separately(manifest: Manifest) -> None:
    robot = Robot(manifest)
    assert robot.run(0.6, stream="left") == robot.run(0.6, stream="right") == ""


def test_begin_forgets_the_fault(manifest: Manifest) -> None:
    robot = Robot(manifest)
    assert robot.run(3.0) != ""
    robot.check.begin()
    assert robot.check.reason == ""


def test_joints_are_compared_with_all_actions(manifest: Manifest) -> None:
    state = StateSpec(names=tuple(f"joint{index}" for index in range(7)), units=("rad",) * 7)
    io = manifest.io.model_copy(update={"state": state})
    robot = Robot(manifest.model_copy(update={"io": io}))
    assert robot.run(3.0, executed=GRIP) == "", "a gripper alone says nothing about joints"
    assert "joint0" in robot.run(3.0)
