"""Signatures of callbacks: since Kilted, executors pass only the arguments that a callback accepts."""

from __future__ import annotations

import faulthandler
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.common.spin import create_steady_timer
from jepa_ros.nodes.pictures import PicturesNode

pytestmark = pytest.mark.ros


def takes(call: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(call).parameters)


def test_steady_timer_accepts_a_callback_without_a_signature() -> None:
    node = Mock()
    create_steady_timer(node, 1.0, partial(faulthandler.dump_traceback_later, 9.0))
    (_, call), _ = node.create_timer.call_args
    assert takes(call) == []


def test_skip_errors_keeps_the_parameters_of_the_callback() -> None:
    node, taken = Mock(), list[str]()

    def draw(message: str) -> None:
        taken.append(message)
        raise ValueError("no number")

    assert takes(PicturesNode.skip_errors(node, lambda: None)) == []
    wrapped = PicturesNode.skip_errors(node, draw)
    wrapped("of this")
    assert takes(wrapped) == ["message"] and taken == ["of this"]
    assert "no number" in node.get_logger().warning.call_args.args[0]
