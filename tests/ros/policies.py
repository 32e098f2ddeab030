"""Permissions in the SROS2 policies of jepa_bringup, and those that the nodes of a running graph use."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECURITY = ROOT / "ros2_ws" / "src" / "jepa_bringup" / "security"
POLICIES = SECURITY / "policies"
# Services and topics of an action.
_CALLED = ("cancel_goal", "get_result", "send_goal")
_HEARD = ("feedback", "status")
# How the server and the client of an action use them.
_ACTIONS = {"execute": ("reply", "publish"), "call": ("request", "subscribe")}

SETTLED_S = 1.0

# ("publish", "/cmd_vel"), ("subscribe", ...), ("reply", ...), ("request", ...)
Access = set[tuple[str, str]]


def load_keystore() -> ModuleType:
    """Load the keystore program as a module."""
    spec = importlib.util.spec_from_file_location("keystore", SECURITY / "keystore.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def granted(enclave: str, **arguments: str) -> dict[str, Access]:
    """Return the permissions of each node of an enclave that is launched with these arguments."""
    policy = load_keystore().load_policy(POLICIES / f"{enclave}.policy.xml", **arguments)
    used: dict[str, Access] = defaultdict(set)
    for profile in policy.iter("profile"):
        namespace, node = profile.attrib["ns"].rstrip("/"), profile.attrib["node"]
        access = used[node]
        for rule in profile:
            allowed = [kind for kind, qualifier in rule.attrib.items() if qualifier == "ALLOW"]
            for item in rule:
                name = _whole(str(item.text), namespace, node)
                for kind in allowed:
                    access |= _of_action(name, *_ACTIONS[kind]) if kind in _ACTIONS else {(kind, name)}
    return used


def _whole(name: str, namespace: str, node: str) -> str:
    if name.startswith("/"):
        return name
    return f"{namespace}/{node}{name[1:]}" if name.startswith("~") else f"{namespace}/{name}"


def _of_action(name: str, service: str, topic: str) -> Access:
    return {(service, f"{name}/_action/{part}") for part in _CALLED} | {
        (topic, f"{name}/_action/{part}") for part in _HEARD
    }


class Observed:
    """Collect the topics and services that nodes of a graph use."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._observer = graph, graph.observer
        self.used: dict[str, Access] = defaultdict(set)

    def look(self) -> None:
        """Add the current ones."""
        observer = self._observer
        queries = {
            "publish": observer.get_publisher_names_and_types_by_node,
            "subscribe": observer.get_subscriber_names_and_types_by_node,
            "reply": observer.get_service_names_and_types_by_node,
            "request": observer.get_client_names_and_types_by_node,
        }
        for name, namespace in observer.get_node_names_and_namespaces():
            if (name, namespace) == (observer.get_name(), observer.get_namespace()):
                continue
            for kind, query in queries.items():
                self.used[name] |= {(kind, access) for access, _ in query(name, namespace)}

    def settle(self) -> None:
        """Poll until nothing is added for a while."""
        while True:
            before = sum(map(len, self.used.values()))
            self._graph.spin_for(SETTLED_S)
            self.look()
            if sum(map(len, self.used.values())) == before:
                return
