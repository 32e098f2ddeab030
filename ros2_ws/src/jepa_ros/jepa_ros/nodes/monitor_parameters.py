"""The parameters of the monitor node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, Parameter

PARAMETERS = (
    Parameter(
        name="mcap",
        default="",
        description="New MCAP file that receives all topics. Empty: no recording.",
        read_only=True,
    ),
    Parameter(
        name="large_messages_hz",
        default=0.0,
        description="Rate at which messages of more than 100 kB, such as futures, are recorded per topic "
        "[Hz]. 0: all.",
        low=0.0,
        high=1000.0,
        read_only=True,
    ),
    Parameter(
        name="view",
        default="auto",
        description="Display: live (redrawn in place), lines or none. auto: live on a terminal, otherwise "
        "lines.",
        choices=("auto", "live", "lines", "none"),
        read_only=True,
    ),
    Parameter(
        name="line_period_s",
        default=5.0,
        description="Time between two lines [s].",
        low=0.5,
        high=3600.0,
        read_only=True,
    ),
    REPORT_PATH,
)
