"""Services that take their time, answered beside a node: what it takes in goes on meanwhile."""

from __future__ import annotations

import threading
import traceback

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node


class Answering:
    """A node of its own, spun on a thread of its own, on which the services of ``owner`` are made, by names
    that it resolves.

    Args:
        owner: whose services they are.
        name: of what is answered, for the node and the thread.
        executor: that spins it.

    Attributes:
        node: on which to make them, before :meth:`start`.
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
        self._executor = executor
        self._thread = threading.Thread(target=self._spin, name=f"jepa-{name}", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._executor.add_node(self.node)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; what was made on the node may be destroyed then."""
        self._executor.shutdown()
        self._thread.join()

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
