"""Detection of several publishers on a topic that has one owner. The middleware does not report them."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node


def duplicate_publishers(node: Node, topics: Iterable[str], hint: str) -> list[str]:
    """Return a warning, followed by ``hint``, for each fully qualified topic with several publishers."""
    counts = {topic: node.count_publishers(topic) for topic in topics}
    return [f"{topic} has {count} publishers: {hint}" for topic, count in counts.items() if count > 1]
