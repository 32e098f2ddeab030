"""From predicted futures to safe commands. Without ROS; the caller passes the clock.

The roles are those of nav2: planner (:class:`RecedingHorizonPlanner`), controller, goal checker, progress
checker, recovery behaviors, and a :class:`SafetyMonitor` that stops the robot. :class:`Controller` combines
them; the settings are a :class:`ControllerConfig`.

Example::

    from jepa_runtime.control import PRESETS, preset

    print(list(PRESETS), preset("two_rooms"))
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.control.config import ControllerConfig
    from jepa_runtime.control.controller import BLOCKED_RATIO, CommandPlanner, Controller, ControllerModel
    from jepa_runtime.control.goal_tracker import GoalConfig, GoalResult, GoalTracker, Outcome
    from jepa_runtime.control.policy_planner import PolicyConfig, PolicyPlanner, PolicyVerdict
    from jepa_runtime.control.policy_proposals import PolicyProposals
    from jepa_runtime.control.presets import PRESETS, preset
    from jepa_runtime.control.receding_horizon import Decision, PlannerInput, RecedingHorizonPlanner, State
    from jepa_runtime.control.safety_monitor import SafetyMonitor, StopCause
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "config": ["ControllerConfig"],
            "controller": ["BLOCKED_RATIO", "CommandPlanner", "Controller", "ControllerModel"],
            "goal_tracker": ["GoalConfig", "GoalResult", "GoalTracker", "Outcome"],
            "policy_planner": ["PolicyConfig", "PolicyPlanner", "PolicyVerdict"],
            "policy_proposals": ["PolicyProposals"],
            "presets": ["PRESETS", "preset"],
            "receding_horizon": ["Decision", "PlannerInput", "RecedingHorizonPlanner", "State"],
            "safety_monitor": ["SafetyMonitor", "StopCause"],
        },
    )

__all__ = [
    "BLOCKED_RATIO",
    "PRESETS",
    "CommandPlanner",
    "Controller",
    "ControllerConfig",
    "ControllerModel",
    "Decision",
    "GoalConfig",
    "GoalResult",
    "GoalTracker",
    "Outcome",
    "PlannerInput",
    "PolicyConfig",
    "PolicyPlanner",
    "PolicyProposals",
    "PolicyVerdict",
    "RecedingHorizonPlanner",
    "SafetyMonitor",
    "State",
    "StopCause",
    "preset",
]
