"""The names of the parameters of all nodes, which one file of parameters may set for all of them."""

from __future__ import annotations

from jepa_ros.nodes import (
    camera_parameters,
    first_person_parameters,
    monitor_parameters,
    pictures_parameters,
    two_rooms_parameters,
)
from jepa_ros.planner import parameters as planner_parameters
from jepa_ros.route import parameters as route_parameters
from jepa_ros.update import parameters as update_parameters
from jepa_ros.world_model import parameters as world_model_parameters

NAMES = frozenset(
    parameter.name
    for module in (
        world_model_parameters,
        camera_parameters,
        two_rooms_parameters,
        first_person_parameters,
        planner_parameters,
        route_parameters,
        monitor_parameters,
        pictures_parameters,
        update_parameters,
    )
    for parameter in module.PARAMETERS
)
