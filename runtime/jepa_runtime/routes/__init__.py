"""Teach and repeat: a drive is shown once, and repeated from images alone.

A :class:`Route` is a folder of key frames. :class:`RouteRecorder` records one, :class:`RouteLocalizer`
estimates where on it the robot is, and :class:`RouteFollower` chooses the goals of the controller.

Example::

    from pathlib import Path

    from jepa_runtime.routes import Route

    if Path("route").is_dir():
        route = Route.open("route")
        print(len(route), route.duration_s)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.routes.follower import (
        FollowerConfig,
        FollowerState,
        RobotStatus,
        RouteFollower,
        RouteOutcome,
        RouteResult,
        SubGoal,
    )
    from jepa_runtime.routes.graph_localizer import GraphLocalizer
    from jepa_runtime.routes.localizer import LocalizerConfig, Place, RouteLocalizer
    from jepa_runtime.routes.loop_closures import LoopClosureConfig, PoseReader, ReadingConfig
    from jepa_runtime.routes.manifest import RouteModel
    from jepa_runtime.routes.place_graph import PlaceGraph
    from jepa_runtime.routes.pose_graph import Measurement
    from jepa_runtime.routes.recorder import RecorderConfig, RouteRecorder
    from jepa_runtime.routes.relocalization import Location, Relocalizer
    from jepa_runtime.routes.route import KeyFrame, Route, Score, check_absent, model_of
    from jepa_runtime.routes.trace import Trace, TracePoint
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "follower": [
                "FollowerConfig",
                "FollowerState",
                "RobotStatus",
                "RouteFollower",
                "RouteOutcome",
                "RouteResult",
                "SubGoal",
            ],
            "graph_localizer": ["GraphLocalizer"],
            "localizer": ["LocalizerConfig", "Place", "RouteLocalizer"],
            "loop_closures": ["LoopClosureConfig", "PoseReader", "ReadingConfig"],
            "manifest": ["RouteModel"],
            "place_graph": ["PlaceGraph"],
            "pose_graph": ["Measurement"],
            "recorder": ["RecorderConfig", "RouteRecorder"],
            "relocalization": ["Location", "Relocalizer"],
            "route": ["KeyFrame", "Route", "Score", "check_absent", "model_of"],
            "trace": ["Trace", "TracePoint"],
        },
    )

__all__ = [
    "FollowerConfig",
    "FollowerState",
    "GraphLocalizer",
    "KeyFrame",
    "LocalizerConfig",
    "Location",
    "LoopClosureConfig",
    "Measurement",
    "Place",
    "PlaceGraph",
    "PoseReader",
    "ReadingConfig",
    "RecorderConfig",
    "Relocalizer",
    "RobotStatus",
    "Route",
    "RouteFollower",
    "RouteLocalizer",
    "RouteModel",
    "RouteOutcome",
    "RouteRecorder",
    "RouteResult",
    "Score",
    "SubGoal",
    "Trace",
    "TracePoint",
    "check_absent",
    "model_of",
]
