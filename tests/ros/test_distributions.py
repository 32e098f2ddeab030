"""No API is used that Humble lacks, the oldest ROS 2 with packages for JetPack 6."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Names in rclpy 7.1, launch 3.4 and launch_ros 0.26 (Jazzy) but not in 3.3, 1.0 and 0.19 (Humble).
LATER = {
    "add_post_set_parameters_callback", "add_pre_set_parameters_callback", "AllSubstitution",
    "AnySubstitution", "AsyncParameterClient", "configure_introspection", "count_clients",
    "count_services", "enable_logger_service", "EqualsSubstitution", "FileContent",
    "get_fully_qualified_node_names", "IfElseSubstitution", "LaunchLogDir", "LifecycleTransition",
    "NotEqualsSubstitution", "ParameterEventHandler", "PushROSNamespace", "qos_profile_best_available",
    "qos_profile_default", "respawn_max_retries", "service_name", "ServiceIntrospectionState",
    "SetROSLogDir", "topic_type_hash", "TypeHash", "wait_for_node",
}  # fmt: skip


def later(tree: ast.AST) -> Iterator[str]:
    """Return the names that ``tree`` uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name) | ast.keyword(arg=name) if name in LATER:
                yield name
            case ast.Call(func=ast.Attribute(attr="call"), keywords=given):
                # Attribute of a Client.
                yield from (f"call({each.arg})" for each in given if each.arg == "timeout_sec")


@pytest.mark.parametrize("folder", ["ros2_ws/src", "examples", "demo"])
def test_packages_use_nothing_newer_than_humble(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    used = {file.name: newer for file in files if (newer := [*later(ast.parse(file.read_text("utf-8")))])}
    assert not used
