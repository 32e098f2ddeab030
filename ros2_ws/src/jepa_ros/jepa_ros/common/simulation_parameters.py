"""Parameters that the nodes with a simulated robot have in common."""

from __future__ import annotations

from jepa_ros.common.parameters import Parameter

RATE_HZ = Parameter(
    name="rate_hz",
    default=30.0,
    description="Image rate [Hz].",
    low=0.1,
    high=1000.0,
    read_only=True,
)

FRAME_ID = Parameter(
    name="frame_id",
    default="camera",
    description="frame_id of the images of the first episode. Later episodes append #2, #3 and so on.",
    read_only=True,
)

COMMAND_TIMEOUT_S = Parameter(
    name="command_timeout_s",
    default=0.5,
    description="Maximum age of a command before the robot stops [s].",
    low=0.01,
    high=60.0,
)

MIN_SUBSCRIBERS = Parameter(
    name="min_subscribers",
    default=0,
    description="Number of image subscribers to wait for before the first image.",
    low=0,
    high=100,
    read_only=True,
)
