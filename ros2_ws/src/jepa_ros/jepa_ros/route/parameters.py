"""The parameters of the route node."""

from __future__ import annotations

from jepa_ros.common.parameters import ODOMETRY_TIMEOUT, REPORT_PATH, STAMPED_CMD_VEL, Parameter
from jepa_runtime.routes import FollowerConfig, RecorderConfig

_FOLLOWER, _RECORDER = FollowerConfig(), RecorderConfig()
# Values of use_odometry.
AUTO, ALWAYS, NEVER = "auto", "always", "never"

PARAMETERS = (
    Parameter(
        name="routes_dir",
        default="",
        description="Folder of the routes. Empty: routes can be neither taught nor repeated.",
        when_unconfigured=True,
    ),
    Parameter(
        name="route_rate_hz",
        default=10.0,
        description="Rate at which the place on the route is estimated, and images are recorded [Hz].",
        low=1.0,
        high=100.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="camera",
        default="",
        description="Image topic of the camera that the routes use, as in the world model's parameter "
        "cameras. Empty: its only camera.",
        read_only=True,
    ),
    Parameter(
        name="use_odometry",
        default=AUTO,
        description="Whether the odometry on odom is used. auto: routes are taught with it if it is "
        "published. A route that was is repeated with it, and not without it if the model reads poses. "
        "always: routes are neither taught nor repeated without it.",
        choices=(AUTO, ALWAYS, NEVER),
        read_only=True,
    ),
    ODOMETRY_TIMEOUT,
    Parameter(
        name="key_frame_spacing",
        default=_RECORDER.spacing,
        description="Energy between key frames, as a multiple of the model's goal threshold.",
        low=1.0,
        high=1000.0,
    ),
    Parameter(
        name="key_frame_max_gap_s",
        default=_RECORDER.max_gap_s,
        description="Longest time between key frames while the robot moves [s].",
        low=0.1,
        high=600.0,
    ),
    Parameter(
        name="lookahead_s",
        default=_FOLLOWER.lookahead_s,
        description="How far ahead on the route the goal of the planner is, in time of the taught drive [s].",
        low=0.1,
        high=600.0,
    ),
    Parameter(
        name="lookahead_m",
        default=_FOLLOWER.lookahead_m,
        description="The same in meters of odometry, where 1 rad counts as 0.5 m, if the route has odometry.",
        low=0.05,
        high=1000.0,
    ),
    Parameter(
        name="min_confidence",
        default=_FOLLOWER.min_confidence,
        description="Confidence in the place below which the robot stops and waits.",
        low=0.01,
        high=0.99,
    ),
    Parameter(
        name="unsure_after_s",
        default=_FOLLOWER.unsure_after_s,
        description="Time with less confidence before the robot stops [s].",
        low=0.05,
        high=60.0,
    ),
    Parameter(
        name="lost_after_s",
        default=_FOLLOWER.lost_after_s,
        description="Time without confidence after which a route ends as lost or changed [s].",
        low=0.1,
        high=3600.0,
    ),
    Parameter(
        name="blocked_after_s",
        default=_FOLLOWER.blocked_after_s,
        description="Time of commanded motion without progress before the robot stops and waits [s].",
        low=0.1,
        high=3600.0,
    ),
    Parameter(
        name="wait_s",
        default=_FOLLOWER.wait_s,
        description="Time for which the robot waits before it tries again [s].",
        low=0.1,
        high=3600.0,
    ),
    Parameter(
        name="attempts",
        default=_FOLLOWER.attempts,
        description="Further attempts without progress before a route ends as blocked or changed.",
        low=0,
        high=1000,
    ),
    Parameter(
        name="goal_deadline_s",
        default=5.0,
        description="Time after which the planner stops if the route node does not renew its goal [s].",
        low=0.5,
        high=600.0,
    ),
    Parameter(
        name="patience_s",
        default=3.0,
        description="Time without a response of the world model after which a route is aborted [s].",
        low=0.5,
        high=600.0,
    ),
    Parameter(
        name="autostart",
        default=True,
        description="Whether the node configures and activates itself.",
        read_only=True,
    ),
    STAMPED_CMD_VEL,
    REPORT_PATH,
)
