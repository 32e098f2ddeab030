"""The parameters of the camera node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, Parameter

PARAMETERS = (
    Parameter(
        name="source",
        default="/dev/video0",
        description="Source of the images: /dev/videoN, a video file, a folder of images, or a bag "
        "(FILE.mcap?topic=/name).",
        read_only=True,
    ),
    Parameter(
        name="rate_hz",
        default=30.0,
        description="Images per second requested from a camera or read from a folder; other files play at "
        "their own rate [Hz].",
        low=0.1,
        high=1000.0,
        read_only=True,
    ),
    Parameter(
        name="frame_id",
        default="camera",
        description="frame_id of the images. Each repetition or discontinuity of a file appends #2, #3 and "
        "so on.",
        read_only=True,
    ),
    Parameter(
        name="loop",
        default=False,
        description="Whether to repeat a file. Each pass has its own frame_id, so that nothing is predicted "
        "from its end to its start.",
        read_only=True,
    ),
    Parameter(
        name="stale_after_s",
        default=1.0,
        description="Time without an image after which the diagnostics report STALE [s].",
        low=0.05,
        high=3600.0,
    ),
    REPORT_PATH,
)
