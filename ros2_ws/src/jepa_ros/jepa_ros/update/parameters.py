"""The parameters of the update_manager node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED, Parameter

PARAMETERS = (
    Parameter(
        name="root",
        default="",
        description="Folder of the robot, as `jepa-runtime update provision` sets it up.",
        read_only=True,
    ),
    Parameter(
        name="world_model",
        default="world_model",
        description="The node that serves.",
        read_only=True,
    ),
    Parameter(
        name="auto",
        default=True,
        description="Look for updates every poll_s of config.json; false: only when asked to.",
    ),
    Parameter(
        name="image_topic",
        default="",
        description="Images on which a candidate is compared with what serves; empty: the source that "
        "config.json names.",
        read_only=True,
    ),
    Parameter(
        name="action_topic",
        default="",
        description="Commands that the robot executes meanwhile; empty: cmd_vel, or pose_delta of an arm.",
        read_only=True,
    ),
    STAMPED,
    Parameter(
        name="frames_timeout_s",
        default=10.0,
        description="Without an image for so long a comparison fails [s].",
        low=0.1,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="compare_for_s",
        default=900.0,
        description="A comparison that knows nothing after so long fails, as where the robot stands [s].",
        low=1.0,
        high=86400.0,
        read_only=True,
    ),
    Parameter(
        name="require_safe",
        default=False,
        description="Switch only while ~/safe_to_switch says that it is safe.",
        read_only=True,
    ),
    Parameter(
        name="safe_timeout_s",
        default=1.0,
        description="For how long a word on ~/safe_to_switch holds [s]; 0: until the next one.",
        low=0.0,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="latency_p99_ms",
        default=0.0,
        description="99 of 100 frames of a new model take at most this to encode and predict while it is "
        "observed [ms]; 0: what its release says.",
        low=0.0,
        high=60000.0,
        read_only=True,
    ),
    Parameter(
        name="silent_after_s",
        default=5.0,
        description="Without diagnostics of the node that serves for so long it is gone, and without a "
        "latent while images come a new model has failed [s].",
        low=1.5,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="discovery_s",
        default=30.0,
        description="How long to wait for the node that serves, at the start and where it is gone [s].",
        low=0.1,
        high=120.0,
        read_only=True,
    ),
    Parameter(
        name="answer_timeout_s",
        default=60.0,
        description="How long to wait until the node that serves has exchanged its model [s].",
        low=0.1,
        high=200.0,
        read_only=True,
    ),
    REPORT_PATH,
)
