"""The parameters of the pictures node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, Parameter

PARAMETERS = (
    Parameter(
        name="pictures_hz",
        default=2.0,
        description="Rendered images per second [Hz].",
        low=0.1,
        high=30.0,
        read_only=True,
    ),
    Parameter(
        name="trail_s",
        default=10.0,
        description="Time span of past latents in the images [s].",
        low=0.5,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="atlas_bundle",
        default="",
        description="Bundle whose atlas is used. Empty, or a bundle without one: frames of this run are "
        "used.",
        read_only=True,
    ),
    REPORT_PATH,
)
