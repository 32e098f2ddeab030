"""Declaration of node parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

pytestmark = pytest.mark.ros


def test_accepted_parameter_changes_are_reported_and_rejected_ones_are_not(owner: Any) -> None:
    from jepa_ros.common.parameters import Parameter, declare_parameters
    from rclpy.parameter import Parameter as RosParameter

    changes: list[Mapping[str, Any]] = []
    names = [
        Parameter(name="rate_hz", default=30.0, description="Rate [Hz].", low=0.1, high=100.0),
        Parameter(name="view", default="auto", description="View.", choices=("auto", "none")),
    ]
    declare_parameters(owner, names, on_change=changes.append)
    set_together = owner.set_parameters_atomically
    rate, view = RosParameter("rate_hz", value=5.0), RosParameter("view", value="none")
    assert set_together([rate, view]).successful
    assert not set_together([rate, RosParameter("view", value="all")]).successful
    assert not set_together([view, RosParameter("rate_hz", value=500.0)]).successful
    assert changes == [{"rate_hz": 5.0, "view": "none"}]


def test_misspelled_parameter_is_logged_once_with_the_nearest_name(
    owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepa_ros.common.parameters import Parameter, declare_parameters
    from rclpy.impl.rcutils_logger import RcutilsLogger
    from rclpy.node import Node
    from rclpy.parameter import Parameter as RosParameter

    lines: list[str] = []
    monkeypatch.setattr(RcutilsLogger, "warning", lambda _, line, **__: lines.append(line))
    # goal_timeout_s is a parameter of the planner, which one file may set for all nodes.
    given = {"rate_hz": 5.0, "rate_h": 6.0, "use_sim_time": False, "goal_timeout_s": 3.0}
    given["qos_overrides./out.publisher.depth"] = 5  # type: ignore[assignment]
    overrides = [RosParameter(name, value=value) for name, value in given.items()]
    node = Node("misspelled", context=owner.context, parameter_overrides=overrides)
    try:
        declare_parameters(
            node,
            [
                Parameter(name="rate_hz", default=30.0, description="Rate [Hz].", low=0.1, high=100.0),
                Parameter(name="view", default="auto", description="View."),
            ],
        )
    finally:
        node.destroy_node()
    assert lines == ["parameter rate_h is ignored: there is no such parameter; the nearest name is rate_hz"]
