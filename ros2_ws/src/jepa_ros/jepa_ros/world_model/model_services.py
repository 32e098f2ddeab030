"""Services that exchange the model of a node. They are answered on a thread of their own: loading a model
takes a second or more, and images must be taken meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepa_msgs.srv import SwapModel
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from jepa_ros.common.answering import Answering
from jepa_ros.world_model.model_opening import Served


class ModelServices:
    """``~/swap_model``, ``~/rollback_model`` and ``~/commit_model`` of ``owner``.

    Args:
        served: what is served now; raises JepaRuntimeError while nothing is.
    """

    def __init__(self, owner: Node, served: Callable[[], Served]) -> None:
        self._served = served
        self._log = owner.get_logger()
        self._closing = False
        self._answering = Answering(owner, "models", SingleThreadedExecutor())
        self._answering.serve(SwapModel, "~/swap_model", self._swap)
        self._answering.serve(Trigger, "~/rollback_model", self._rollback)
        self._answering.serve(Trigger, "~/commit_model", self._commit)
        self._answering.start()

    def close(self) -> None:
        """Answer no more. A model that is being opened is given up without an answer, as where the node is
        killed: whoever asked is not to take that for a refusal of the model."""
        self._closing = True
        self._answering.stop()

    def _swap(self, request: Any, response: Any) -> Any:
        def swap() -> str:
            response.history_kept = self._served().swap(request.bundle, self._go_on)
            return f"{request.bundle} serves"

        return self._answer("swap", swap, response)

    def _rollback(self, _: Any, response: Any) -> Any:
        def rollback() -> str:
            self._served().pipeline.rollback()
            return f"{self._served().model.bundle.path} serves again"

        return self._answer("rollback", rollback, response)

    def _commit(self, _: Any, response: Any) -> Any:
        def commit() -> str:
            self._served().pipeline.commit()
            return f"{self._served().model.bundle.path} stays"

        return self._answer("commit", commit, response)

    def _go_on(self) -> None:
        if self._closing:
            raise ExternalShutdownException

    def _answer(self, what: str, act: Callable[[], str], response: Any) -> Any:
        # Whatever opening a model raises: it must not end the thread, and the old model serves on.
        try:
            response.message = act()
            response.success = True
            self._log.info(response.message)
        except ExternalShutdownException:
            raise
        except Exception as error:
            response.message = str(error)
            response.success = False
            self._log.error(f"{what} refused: {error}")
        return response
