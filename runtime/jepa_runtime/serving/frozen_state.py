"""Whether the measured state of the robot stays the same while images show that the robot moves.

A driver that hangs may repeat its last state with new stamps. A state that does not change is no fault by
itself: a robot at rest has one, and so has a robot that is held, by a limit switch or by contact, whatever is
commanded. Only images tell these apart: they show the motion that the model predicts of the executed actions,
or they do not.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.planning import ActionLimits
from jepa_runtime.serving.types import Result

# Effort (1: an action at its limit) from which an action is clearly more than noise.
_CLEAR_EFFORT = 0.1
# Proportion of the predicted change between which an image shows it. An image of another scene shows more.
_LEAST_RESPONSE, _MOST_RESPONSE = 0.5, 1.5
# Model steps of shown motion without any change of the state that are a fault.
_LIMIT_STEPS = 4.0
# It may hold an object, and then does not move when it is closed.
_GRIPPER = "gripper"


class FrozenStateCheck:
    """Detects a state that does not change while images show executed actions. Thread-safe.

    A component named ``gripper`` is not compared, and while it is commanded, images count for nothing.

    Args:
        manifest: Manifest of a model that reads the state.

    Attributes:
        reason: Why the state must not be used; empty: there is no reason. It stays until the state changes.
    """

    def __init__(self, manifest: Manifest) -> None:
        spec, names = manifest.io.state, manifest.io.action.names
        assert spec is not None
        self._compared = [index for index, name in enumerate(spec.names) if name != _GRIPPER]
        self._names = [spec.names[index] for index in self._compared]
        self._limits = ActionLimits.of(manifest)
        self._is_gripper = np.array([name == _GRIPPER for name in names])
        self._step_ns = round(manifest.io.step_s * 1e9)
        self._lock = Lock()
        self.begin()

    def begin(self) -> None:
        """Reset the check for a new activation."""
        with self._lock:
            self.reason = ""
            self._state: NDArray[np.float32] | None = None
            self._since_ns = 0
            # By stream: shown motion less motion that was not shown [ns], and the stamp of the last image.
            self._shown_ns: dict[str, int] = {}
            self._newest_ns: dict[str, int] = {}

    def add_state(self, stamp_ns: int, values: NDArray[np.float32]) -> None:
        """Add a state [S] that was measured at ``stamp_ns``."""
        state = values[self._compared]
        with self._lock:
            if self._state is not None and np.array_equal(state, self._state):
                return
            self._state, self._since_ns, self.reason = state, stamp_ns, ""
            self._shown_ns.clear()

    def add_result(self, result: Result) -> None:
        """Add an image with the executed actions and how it shows them."""
        with self._lock:
            before_ns = self._newest_ns.get(result.stream, result.stamp_ns)
            self._newest_ns[result.stream] = result.stamp_ns
            elapsed_ns = min(max(result.stamp_ns - before_ns, 0), self._step_ns)
            is_frozen = self._state is not None and result.stamp_ns - self._step_ns >= self._since_ns
            if not is_frozen or result.executed is None or not self._moves_robot(result.executed):
                return
            change_ns = elapsed_ns if _shows_motion(result) else -elapsed_ns
            shown_ns = max(self._shown_ns.get(result.stream, 0) + change_ns, 0)
            self._shown_ns[result.stream] = shown_ns
            if shown_ns > _LIMIT_STEPS * self._step_ns and not self.reason:
                self.reason = (
                    f"the state ({', '.join(self._names)}) has not changed at all for "
                    f"{(result.stamp_ns - self._since_ns) / 1e9:.1f} s, while images show the commanded "
                    "motion: its driver repeats an old state: restart the driver"
                )

    def _moves_robot(self, executed: NDArray[np.float32]) -> bool:
        gripper = self._limits.effort(np.where(self._is_gripper, executed, 0))
        others = self._limits.effort(np.where(self._is_gripper, 0, executed))
        return others >= _CLEAR_EFFORT > gripper


def _shows_motion(result: Result) -> bool:
    """Return whether an image shows the predicted motion; not if no visible change is predicted (NaN)."""
    is_other_scene = result.surprising or result.discontinuous
    return not is_other_scene and _LEAST_RESPONSE <= result.response <= _MOST_RESPONSE
