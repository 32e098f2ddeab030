"""Services and actions with slow callbacks, run on threads of their own so that the node stays responsive."""

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


class BackgroundServices:
    """Serve services and actions of ``owner`` from a helper node that spins on its own thread.

    Create all services and actions before :meth:`start`.

    Args:
        owner: Node whose name and remappings resolve the names.
        name: Suffix of the helper node's name, and of the thread's.
        executor: Executor of the helper node.

    Attributes:
        node: Helper node, for clients that the callbacks need.
        group: Callback group for these clients.
    """

    def __init__(self, owner: Node, name: str, executor: Executor) -> None:
        # The remappings of the process apply to the owner: its name must not become that of this node.
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

    def add_service(self, service_type: type, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Create a service."""
        resolved = self._owner.resolve_service_name(name)
        self.node.create_service(service_type, resolved, callback, callback_group=self.group)

    def add_action(self, action_type: type, name: str, **options: Any) -> None:
        """Create an action server; ``options`` are those of :class:`rclpy.action.ActionServer`."""
        resolved = self._owner.resolve_service_name(name)
        self._actions.append(
            ActionServer(self.node, action_type, resolved, callback_group=self.group, **options)
        )

    def start(self) -> None:
        """Start serving."""
        self._executor.add_node(self.node)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving. It cannot be started again."""
        self._executor.shutdown()
        self._thread.join()
        for action in self._actions:
            action.destroy()
        self.node.destroy_node()

    def _spin(self) -> None:
        # No exception, including those of rclpy itself, may leave the owner without its services.
        while True:
            try:
                self._executor.spin()
                return
            except ExternalShutdownException:
                return
            except Exception:
                self.node.get_logger().error(traceback.format_exc())
