"""Lifecycle transitions: at the start of a node, with reported failures, and invalid requests."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from jepa_ros.common.spin import create_steady_timer
from jepa_runtime.errors import JepaRuntimeError


class ReportingNode(Protocol):
    """Represent a lifecycle node that reports the reason for a failed transition in its diagnostics."""

    fault: str

    def get_logger(self) -> Any: ...

    def publish_diagnostics(self) -> None: ...


Node = TypeVar("Node", bound=ReportingNode)
Transition = Callable[[Node, LifecycleState], TransitionCallbackReturn]


def report_failures(transition: Transition[Node]) -> Transition[Node]:
    """Wrap a transition so that an exception is logged, shown in the diagnostics and returned as a failure.

    rclpy discards exceptions of transition callbacks.
    """

    @functools.wraps(transition)
    def reporting(self: Node, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix("on_")
        try:
            result = transition(self, state)
        except JepaRuntimeError as error:
            result, self.fault = TransitionCallbackReturn.FAILURE, f"{name} failed: {error}"
        except Exception as error:
            result, self.fault = (
                TransitionCallbackReturn.ERROR,
                f"{name} failed: {type(error).__name__}: {error}",
            )
            self.get_logger().error(traceback.format_exc())
        else:
            # The success of the error handler does not clear the failure before it.
            self.fault = self.fault if name == "error" else ""
        if result != TransitionCallbackReturn.SUCCESS:
            self.get_logger().error(self.fault)
        self.publish_diagnostics()
        return result

    return reporting


def activate_on_spin(node: Any) -> None:
    """Configure and activate ``node`` when it begins to spin; if that fails, end it with the reason."""

    def start() -> None:
        timer.cancel()
        for trigger in (node.trigger_configure, node.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                node.failure = node.fault
                node.finished.set()
                return

    timer = create_steady_timer(node, 0.0, start)


def reject_invalid_transitions(node: Any) -> None:
    """Reply with a failure when a client requests a transition that the state of ``node`` does not have.

    rclpy raises out of ``spin`` instead.
    """
    change_state = node._service_change_state.callback

    def respond(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            node.get_logger().error(
                f"transition {request.transition.id} {request.transition.label} rejected: {error}"
            )
            response.success = False
            return response

    node._service_change_state.callback = respond
