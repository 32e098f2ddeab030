"""Services and actions that take their time, answered beside a node: what it takes in goes on meanwhile."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.action import ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node


class Answering:
    """A node of its own, spun on a thread of its own, with services and actions of ``owner``, by names that
    it resolves. All are made before :meth:`start`.

    Args:
        owner: whose they are.
        name: of what is answered, for the node and the thread.
        executor: that spins it.

    Attributes:
        node, group: on and in which to make what is needed for an answer.
    """

    def __init__(self, owner: Node, name: str, executor: Executor) -> None:
        # Remappings of the process are for the owner: its name must not become that of this node.
        self.node = rclpy.create_node(
            f"{owner.get_name()}_{name}",
            namespace=owner.get_namespace(),
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self.group = ReentrantCallbackGroup()
        self._owner, self._executor = owner, executor
        self._actions: list[ActionServer] = []
        self._thread = threading.Thread(target=self._spin, name=f"jepa-{name}", daemon=True)

    def serve(self, kind: type, name: str, answer: Callable[[Any, Any], Any]) -> None:
        """Make a service."""
        whole = self._owner.resolve_service_name(name)
        self.node.create_service(kind, whole, answer, callback_group=self.group)

    def act(self, kind: type, name: str, **options: Any) -> None:
        """Make an action; ``options`` are those of :class:`rclpy.action.ActionServer`."""
        whole = self._owner.resolve_service_name(name)
        self._actions.append(ActionServer(self.node, kind, whole, callback_group=self.group, **options))

    def start(self) -> None:
        """Answer from now on."""
        self._executor.add_node(self.node)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, for good."""
        self._executor.shutdown()
        self._thread.join()
        for action in self._actions:
            action.destroy()
        self.node.destroy_node()

    def _spin(self) -> None:
        """Whatever is raised, by rclpy itself too, must not leave the owner without its services."""
        while True:
            try:
                self._executor.spin()
                return
            except ExternalShutdownException:
                return
            except Exception:
                self.node.get_logger().error(traceback.format_exc())
