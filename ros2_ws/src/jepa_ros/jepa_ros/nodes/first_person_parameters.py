"""The parameters of the first_person node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED_CMD_VEL, Parameter
from jepa_ros.common.simulation_parameters import COMMAND_TIMEOUT_S, FRAME_ID, MIN_SUBSCRIBERS, RATE_HZ

PARAMETERS = (
    Parameter(
        name="seed",
        default=0,
        description="Seed of the house, the route, the displaced start and the noise of all sensors.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    RATE_HZ,
    FRAME_ID,
    COMMAND_TIMEOUT_S,
    MIN_SUBSCRIBERS,
    Parameter(
        name="displaced",
        default=True,
        description="Whether ~/reset sets the robot down some 0.1 m and 7 degrees off the start of the "
        "route. false: exactly there.",
    ),
    Parameter(
        name="door",
        default=-1,
        description="Door that ~/close_door closes, counted along the route from 0. -1: the last one.",
        low=-1,
        high=100,
    ),
    STAMPED_CMD_VEL,
    REPORT_PATH,
)
