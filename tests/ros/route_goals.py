"""A client of the actions ``/route/teach_route`` and ``/route/repeat_route``."""

from __future__ import annotations

from typing import Any

from rclpy.action import ActionClient


def await_action(graph: Any, client: ActionClient, rejected: Any) -> None:
    """Wait until the server answers; ``rejected`` is a goal that it rejects, and is sent repeatedly.

    A client may count a server as ready before both match each other, and a goal or its answer is then lost.
    """
    graph.until(client.server_is_ready, "the action server")
    sent: list[Any] = []
    graph.until(
        lambda: any(future.done() for future in sent),
        "an answer to a goal",
        meanwhile=lambda: sent.append(client.send_goal_async(rejected)),
        every_s=2.0,
    )
    assert not any(future.done() and future.result().accepted for future in sent)


class RouteGoal:
    """A goal of one of the actions."""

    def __init__(self, graph: Any, server: ActionClient, goal: Any) -> None:
        self._graph, self.feedback = graph, []
        graph.until(server.server_is_ready, "the action server")
        sent = server.send_goal_async(
            goal, feedback_callback=lambda each: self.feedback.append(each.feedback)
        )
        graph.until(sent.done, "an answer to the goal")
        self._handle = sent.result()
        self.accepted: bool = self._handle.accepted
        self._result = self._handle.get_result_async() if self.accepted else None

    def cancel(self) -> None:
        """Cancel the goal."""
        cancelled = self._handle.cancel_goal_async()
        self._graph.until(cancelled.done, "an answer to the cancellation")

    @property
    def ended(self) -> bool:
        """Whether the goal has ended."""
        return self._result is not None and self._result.done()

    def end(self, timeout_s: float = 60.0) -> tuple[int, Any]:
        """Return status and result after the end of the goal."""
        assert self._result is not None
        self._graph.until(self._result.done, "the end of the goal", timeout_s)
        return self._result.result().status, self._result.result().result
