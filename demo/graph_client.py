"""A node of a demo's own, which waits for what happens in the graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from processes import DemoError
from rclpy.executors import SingleThreadedExecutor


class GraphClient:
    """Manage a node and process its messages while something is awaited.

    Args:
        name: Name of the node.
        check: Called continuously; raises if a process has exited.

    Attributes:
        node: The node.
    """

    def __init__(self, name: str, check: Callable[[], None]) -> None:
        self._check = check
        self.node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Process messages until ``condition`` is true.

        Raises:
            DemoError: The time is over.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise DemoError(f"timed out after {timeout_s:g} s waiting for the {what}")
            self._check()
            self._executor.spin_once(timeout_sec=0.1)

    def wait(self, seconds: float, what: str) -> None:
        """Process messages for some time."""
        ends = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > ends, 2 * seconds + 1.0, what)

    def close(self) -> None:
        """Close the node."""
        self._executor.shutdown()
        self.node.destroy_node()
