"""Lifecycle transitions whose failures are seen, and that are answered whatever is asked for."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from jepa_runtime.errors import JepaRuntimeError


class Reporting(Protocol):
    """A lifecycle node that tells in its diagnostics what a transition failed on."""

    fault: str

    def get_logger(self) -> Any: ...

    def publish_diagnostics(self) -> None: ...


Node = TypeVar("Node", bound=Reporting)
Transition = Callable[[Node, LifecycleState], TransitionCallbackReturn]


def reported(transition: Transition[Node]) -> Transition[Node]:
    """rclpy swallows what a transition raises: log it, keep it for the diagnostics, and say that it
    failed."""

    @functools.wraps(transition)
    def reporting(self: Node, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix("on_")
        try:
            answer = transition(self, state)
        except JepaRuntimeError as error:
            answer, self.fault = TransitionCallbackReturn.FAILURE, f"{name} failed: {error}"
        except Exception as error:
            answer, self.fault = (
                TransitionCallbackReturn.ERROR,
                f"{name} failed: {type(error).__name__}: {error}",
            )
            self.get_logger().error(traceback.format_exc())
        else:
            # The error handler's success is no news about what failed before it.
            self.fault = self.fault if name == "error" else ""
        if answer != TransitionCallbackReturn.SUCCESS:
            self.get_logger().error(self.fault)
        self.publish_diagnostics()
        return answer

    return reporting


def answer_impossible(node: Any) -> None:
    """rclpy raises out of spin when a client asks ``node`` for a transition that its present state does not
    have."""
    change_state = node._service_change_state.callback

    def answering(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            node.get_logger().error(
                f"transition {request.transition.id} {request.transition.label} refused: {error}"
            )
            response.success = False
            return response

    node._service_change_state.callback = answering
