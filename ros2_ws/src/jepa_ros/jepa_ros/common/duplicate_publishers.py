"""Who else says what one node is to say: of that the middleware tells nobody."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node


def rivals(node: Node, topics: Iterable[str], question: str) -> list[str]:
    """Those of ``topics``, whole, that several publish on, with a ``question`` for people."""
    counts = {topic: node.count_publishers(topic) for topic in topics}
    return [f"{topic} has {count} publishers: {question}" for topic, count in counts.items() if count > 1]
