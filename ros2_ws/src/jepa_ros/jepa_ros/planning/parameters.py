"""The parameters of the planner node."""

from __future__ import annotations

from jepa_ros.parameters import REPORT_PATH, STAMPED, Parameter

PARAMETERS = (
    Parameter(
        name="topk",
        default=8,
        description="Best candidates from which the next distribution is made.",
        low=1,
        high=65536,
        read_only=True,
    ),
    Parameter(
        name="planner_seed",
        default=0,
        description="The candidates drawn follow from it.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    Parameter(
        name="futures_timeout_s",
        default=0.5,
        description="The robot is stopped when the newest futures, or their image, are older than this [s]: "
        "more than the latency of futures and the time between two images.",
        low=0.02,
        high=60.0,
    ),
    Parameter(
        name="surprised_after",
        default=30,
        description="Images in a row that surprise the model before the robot is stopped, until as many "
        "others came; 0: it never is for that.",
        low=0,
        high=100000,
        read_only=True,
    ),
    Parameter(
        name="frozen_after_s",
        default=1.0,
        description="An image that stays the same to the bit while the robot is told to move for so long "
        "stops it until another comes [s]; 0: it never does, as for a simulator whose images have no noise.",
        low=0.0,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="max_change",
        default=1.0,
        description="Greatest change of each component of the action within a step of the model, as a share "
        "of its range, and of velocities within less time as much less; 1: any.",
        low=0.001,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="reached_after",
        default=3,
        description="Images in a row below the goal threshold that make a goal reached.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="stuck_after_s",
        default=2.0,
        description="Without progress for this long the status says STUCK, and the robot drives any way [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="escape_s",
        default=0.6,
        description="For so long a stuck robot drives any way, whatever is foreseen of it, as fast as the "
        "model allows, and up to four times as long where that was of no use before [s]; 0: it plans anew.",
        low=0.0,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="goal_timeout_s",
        default=60.0,
        description="A latched goal is over after so long, reached or not, and stays so until one of another "
        "stamp is latched [s]; 0: it has no end.",
        low=0.0,
        high=86400.0,
        read_only=True,
    ),
    Parameter(
        name="stop_timeout_s",
        default=0.0,
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
