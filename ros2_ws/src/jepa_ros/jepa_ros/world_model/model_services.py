"""Services that swap the model of a node.

They run on their own thread: loading a model takes a second or more, and images must be received meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepa_msgs.srv import SwapModel
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.world_model.model_opening import ServingSession


class ModelServices:
    """Serve ``~/swap_model``, ``~/rollback_model`` and ``~/commit_model`` of ``owner``.

    Args:
        owner: The world_model node.
        session: Returns the current session; raises JepaRuntimeError if the node is not configured.
    """

    def __init__(self, owner: Node, session: Callable[[], ServingSession]) -> None:
        self._session = session
        self._log = owner.get_logger()
        self._closing = False
        self._services = BackgroundServices(owner, "models", SingleThreadedExecutor())
        self._services.add_service(SwapModel, "~/swap_model", self._swap)
        self._services.add_service(Trigger, "~/rollback_model", self._rollback)
        self._services.add_service(Trigger, "~/commit_model", self._commit)
        self._services.start()

    def close(self) -> None:
        """Stop serving.

        A swap in progress is cancelled without a response, as if the node had been killed, so that the client
        does not mistake it for a rejection of the model.
        """
        self._closing = True
        self._services.stop()

    def _swap(self, request: Any, response: Any) -> Any:
        def swap() -> str:
            response.history_kept = self._session().swap(request.bundle, self._check_cancelled)
            return f"active model: {request.bundle}"

        return self._respond("swap", swap, response)

    def _rollback(self, _: Any, response: Any) -> Any:
        def rollback() -> str:
            self._session().pipeline.rollback()
            return f"active model after rollback: {self._session().model.bundle.path}"

        return self._respond("rollback", rollback, response)

    def _commit(self, _: Any, response: Any) -> Any:
        def commit() -> str:
            self._session().pipeline.commit()
            return f"model committed: {self._session().model.bundle.path}"

        return self._respond("commit", commit, response)

    def _check_cancelled(self) -> None:
        if self._closing:
            raise ExternalShutdownException

    def _respond(self, operation: str, run: Callable[[], str], response: Any) -> Any:
        # No exception from opening a model may end the thread. The previous model stays active.
        try:
            response.message = run()
            response.success = True
            self._log.info(response.message)
        except ExternalShutdownException:
            raise
        except Exception as error:
            response.message = str(error)
            response.success = False
            self._log.error(f"{operation} failed: {error}")
        return response
