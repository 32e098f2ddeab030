"""The parameters of the planner node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED, Parameter
from jepa_runtime.control.config import ControllerConfig

_DEFAULTS = ControllerConfig()

PARAMETERS = (
    Parameter(
        name="topk",
        default=_DEFAULTS.search.topk,
        description="Best candidates from which the next distribution is made.",
        low=1,
        high=65536,
        read_only=True,
    ),
    Parameter(
        name="planner_seed",
        default=_DEFAULTS.seed,
        description="The candidates drawn follow from it.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    Parameter(
        name="futures_timeout_s",
        default=_DEFAULTS.futures_timeout_s,
        description="The robot is stopped when the newest futures, or their image, are older than this [s]: "
        "more than the latency of futures and the time between two images.",
        low=0.02,
        high=60.0,
    ),
    Parameter(
        name="surprise_window_s",
        default=_DEFAULTS.surprise_window_s,
        description="Length of the window in which surprising and discontinuous images are counted [s].",
        low=0.1,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="surprise_ratio",
        default=_DEFAULTS.surprise_ratio,
        description="Proportion of images in the window that surprise the model above which the robot is "
        "stopped; 1: it never is for that.",
        low=0.05,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="frozen_after_s",
        default=_DEFAULTS.frozen_after_s,
        description="Commanded motion that the images do not show before the robot is stopped, in seconds at "
        "full speed, and at least four steps of the model [s]; 0: it never is for that, nor for repeated "
        "images, which a simulator without noise sends.",
        low=0.0,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="max_change",
        default=_DEFAULTS.max_change,
        description="Greatest change of each component of the action within a step of the model, as a share "
        "of its range, and of velocities within less time as much less; 1: any.",
        low=0.001,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="reached_after",
        default=_DEFAULTS.reached_after,
        description="Images in a row below the goal threshold that make a goal reached.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="stuck_after_s",
        default=_DEFAULTS.stuck_after_s,
        description="Without progress for this long the status says STUCK, and the robot plans from scratch, "
        "after a recovery motion where there is one [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="recovery_s",
        default=_DEFAULTS.recovery_s,
        description="Duration of the recovery motion of a stuck robot: slow, in a random direction in which "
        "the model predicts that the energy to the goal rises by at most 10 % [s]; 0: none.",
        low=0.0,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="recovery_speed",
        default=_DEFAULTS.recovery_speed,
        description="Proportion of the model's action limits at which the robot recovers.",
        low=0.01,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="goal_timeout_s",
        default=_DEFAULTS.goal_timeout_s,
        description="A latched goal is over after so long, reached or not, and stays so until one of another "
        "stamp is latched [s]; 0: it has no end.",
        low=0.0,
        high=86400.0,
        read_only=True,
    ),
    Parameter(
        name="stop_timeout_s",
        default=_DEFAULTS.stop_timeout_s,
        description="The robot is stopped when no message has come on ~/stop for so long [s]; 0: the last "
        "message holds until the next.",
        low=0.0,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="give_up_after",
        default=3,
        description="A goal of ~/reach_goal ends as stuck when the robot was so often, and came no nearer.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="patience_s",
        default=5.0,
        description="A goal of ~/reach_goal is aborted when a safety check lets the robot stand so long [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="camera",
        default="",
        description="Image topic of the camera to drive by, as in the world model's cameras; empty: its only "
        "one.",
        read_only=True,
    ),
    Parameter(
        name="action_frame",
        default="base_link",
        description="frame_id of pose deltas, and of velocities that have one.",
        read_only=True,
    ),
    STAMPED,
    REPORT_PATH,
)
