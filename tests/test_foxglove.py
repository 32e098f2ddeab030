"""The Foxglove layout matches the published topics: every path leads to a field of its topic's type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Nodetype

from jepa_runtime.ros_messages.definitions import typestore

FILE = Path(__file__).resolve().parent.parent / "ros2_ws/src/jepa_bringup/foxglove/jepa.json"
TYPES = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/goal_image": "sensor_msgs/msg/Image",
    "/pictures/latent/image": "sensor_msgs/msg/CompressedImage",
    "/pictures/futures/image": "sensor_msgs/msg/CompressedImage",
    "/pictures/map/image": "sensor_msgs/msg/CompressedImage",
    "/world_model/latent": "jepa_msgs/msg/LatentState",
    "/world_model/futures": "jepa_msgs/msg/PredictedFutures",
    "/world_model/surprise": "jepa_msgs/msg/Surprise",
    "/world_model/model_info": "jepa_msgs/msg/ModelInfo",
    "/planner/status": "jepa_msgs/msg/PlannerStatus",
    "/episode": "jepa_msgs/msg/EpisodeResult",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
PATH_KEYS = {"value", "enabled", "timestampMethod", "label", "color"}


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    assert node.keys() == {"direction", "splitPercentage", "first", "second"}
    assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
    yield from leaves(node["first"])
    yield from leaves(node["second"])


def field(path: str) -> tuple[Any, bool]:
    """Return the type at a message path, and whether it is a whole array."""
    topic = next(
        topic for topic in sorted(TYPES, key=len, reverse=True) if re.match(rf"{topic}(?=[.]|$)", path)
    )
    description: Any = (Nodetype.NAME, TYPES[topic])
    for name in path.removeprefix(topic).split(".")[1:]:
        fields = dict(typestore().fielddefs[description[1]][1])
        description = fields[name.removesuffix("[:]")]
    return description, path.endswith("[:]")


def test_panels_have_a_place_and_settings(layout: dict[str, Any]) -> None:
    assert layout.keys() == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    placed = list(leaves(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"]) and len(set(placed)) == len(placed)


def test_panel_types_are_supported_by_both_apps(layout: dict[str, Any]) -> None:
    kinds = {name.split("!")[0] for name in layout["configById"]}
    assert kinds == {"Image", "Plot", "StateTransitions", "DiagnosticSummary", "RawMessages"}


def test_image_panels_show_image_topics(layout: dict[str, Any]) -> None:
    for name, config in layout["configById"].items():
        if name.startswith("Image!"):
            assert TYPES[config["imageMode"]["imageTopic"]].endswith("Image")


def test_plotted_fields_are_numbers_or_arrays_of_them(layout: dict[str, Any]) -> None:
    shown = 0
    for name, config in layout["configById"].items():
        if name.startswith(("Plot!", "StateTransitions!")):
            for path in [*config["paths"], *filter(None, [config.get("xAxisPath")])]:
                assert path.keys() <= PATH_KEYS and path["enabled"] is True
                (kind, _), whole = field(path["value"])
                assert kind == (Nodetype.SEQUENCE if whole else Nodetype.BASE), path["value"]
                shown += 1
    assert shown >= 10


def test_other_panels_use_existing_topics(layout: dict[str, Any]) -> None:
    config = layout["configById"]
    assert TYPES[config["DiagnosticSummary!health"]["topicToRender"]].endswith("DiagnosticArray")
    assert config["RawMessages!model"]["topicPath"] in TYPES
