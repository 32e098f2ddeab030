"""The parameters of the update_manager node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED_CMD_VEL, Parameter

PARAMETERS = (
    Parameter(
        name="root",
        default="",
        description="Folder of the robot, created by `jepa-runtime update provision`.",
        read_only=True,
    ),
    Parameter(
        name="world_model",
        default="world_model",
        description="Name of the world_model node to update.",
        read_only=True,
    ),
    Parameter(
        name="auto",
        default=True,
        description="Whether to look for updates every poll_s (config.json). false: only on request.",
    ),
    Parameter(
        name="image_topic",
        default="",
        description="Image topic on which a candidate is compared with the active model. Empty: the source "
        "in config.json.",
        read_only=True,
    ),
    Parameter(
        name="action_topic",
        default="",
        description="Topic of the commands that the robot executes during the comparison. Empty: cmd_vel, "
        "or pose_delta for an arm.",
        read_only=True,
    ),
    STAMPED_CMD_VEL,
    Parameter(
        name="frames_timeout_s",
        default=10.0,
        description="Time without an image after which a comparison fails [s].",
        low=0.1,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="compare_for_s",
        default=900.0,
        description="Maximum duration of a comparison [s]. Without a decision by then, for example because "
        "the robot stands still, it fails.",
        low=1.0,
        high=86400.0,
        read_only=True,
    ),
    Parameter(
        name="require_safe",
        default=False,
        description="Whether to switch models only while ~/safe_to_switch is true.",
        read_only=True,
    ),
    Parameter(
        name="safe_timeout_s",
        default=1.0,
        description="Validity of a message on ~/safe_to_switch [s]. 0: until the next message.",
        low=0.0,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="latency_p99_ms",
        default=0.0,
        description="Budget of the p99 time for encoding and predicting a frame while a new model is "
        "observed [ms]. 0: the budget in its release.",
        low=0.0,
        high=60000.0,
        read_only=True,
    ),
    Parameter(
        name="silent_after_s",
        default=5.0,
        description="Time without diagnostics after which the world_model node counts as gone, and time "
        "without a latent while images arrive after which a new model has failed [s].",
        low=1.5,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="discovery_s",
        default=30.0,
        description="Time to wait for the world_model node at startup and after it is gone [s].",
        low=0.1,
        high=120.0,
        read_only=True,
    ),
    Parameter(
        name="response_timeout_s",
        default=60.0,
        description="Time to wait until the world_model node has swapped its model [s].",
        low=0.1,
        high=200.0,
        read_only=True,
    ),
    REPORT_PATH,
)
