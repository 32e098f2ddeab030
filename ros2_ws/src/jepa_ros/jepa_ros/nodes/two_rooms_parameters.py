"""The parameters of the two_rooms node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED_CMD_VEL, Parameter
from jepa_ros.common.simulation_parameters import COMMAND_TIMEOUT_S, FRAME_ID, MIN_SUBSCRIBERS, RATE_HZ

PARAMETERS = (
    Parameter(
        name="layout",
        default="random",
        description="Layout of the rooms. random: new positions of wall and door in each episode; fixed: "
        "always the same.",
        choices=("random", "fixed"),
        read_only=True,
    ),
    Parameter(
        name="seed",
        default=0,
        description="Seed of all layouts, start positions, goals and lights.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    RATE_HZ,
    FRAME_ID,
    COMMAND_TIMEOUT_S,
    Parameter(
        name="episode_timeout_s",
        default=20.0,
        description="Duration after which an episode counts as failed [s].",
        low=0.1,
        high=3600.0,
    ),
    MIN_SUBSCRIBERS,
    Parameter(
        name="duration_s",
        default=0.0,
        description="Duration of the images after which the node exits [s]. 0: no limit.",
        low=0.0,
        high=1e6,
        read_only=True,
    ),
    STAMPED_CMD_VEL,
    REPORT_PATH,
)
