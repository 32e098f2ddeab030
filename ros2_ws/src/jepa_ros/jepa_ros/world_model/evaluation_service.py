"""The service ``~/evaluate_actions`` of the world model, answered on threads of its own: an answer waits for
time between images, and those must be taken meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jepa_msgs.srv import EvaluateActions
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from jepa_ros.common.answering import Answering
from jepa_ros.common.conversions import fill
from jepa_ros.world_model.camera_streams import CameraStream, camera_named
from jepa_ros.world_model.model_opening import Served
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import messages
from jepa_runtime.serving.pipeline import Evaluation

# So many may wait for an answer at once; further ones wait in the middleware.
_THREADS = 4
_DEADLINE_S, _LONGEST_S = 1.0, 60.0


class Evaluations:
    """Answers for ``owner``.

    Args:
        served: what is served now; raises JepaRuntimeError while nothing is.
        cameras: by the topics of their images.
        dtype: of the latents in an answer.
    """

    def __init__(
        self,
        owner: Node,
        served: Callable[[], Served],
        cameras: Callable[[], Mapping[str, CameraStream]],
        dtype: Callable[[], str],
    ) -> None:
        self._served, self._cameras, self._dtype = served, cameras, dtype
        self._log = owner.get_logger()
        self._answering = Answering(owner, "evaluations", MultiThreadedExecutor(_THREADS))
        self._answering.serve(EvaluateActions, "~/evaluate_actions", self._answer)
        self._answering.start()

    def close(self) -> None:
        """Answer no more; nothing is served any longer."""
        self._answering.stop()

    def _answer(self, request: Any, response: Any) -> Any:
        # Whatever the model raises must not end the thread that answers.
        try:
            fill(response, _fields(self._evaluate(request), self._dtype()))
            response.success = True
        except (JepaRuntimeError, ValueError) as error:
            response.message = str(error)
            self._log.warning(f"evaluation refused: {error}", throttle_duration_sec=5.0)
        except Exception as error:
            response.message = str(error)
            self._log.error(f"evaluation refused: {error}", throttle_duration_sec=5.0)
        return response

    def _evaluate(self, request: Any) -> Evaluation:
        deadline_s = request.deadline_s or _DEADLINE_S
        if not 0 < deadline_s <= _LONGEST_S:
            raise JepaRuntimeError(f"deadline_s must be 0 to {_LONGEST_S:g}, got {deadline_s:g}")
        return self._served().pipeline.evaluate(
            messages.array_of(request.actions),
            timeout_s=deadline_s,
            stream=camera_named(self._cameras(), request.camera).topic,
            latents=request.latents,
        )


def _fields(found: Evaluation, dtype: str) -> dict[str, Any]:
    none = np.zeros((0, 0), np.float32)
    latents = np.zeros((0, 0, 0, 0), np.float32) if found.latents is None else found.latents
    return {
        "stamp": messages.time_message(found.stamp_ns),
        "latents": messages.tensor("latents", latents.astype(dtype)),
        "has_goal": found.goal_stamp_ns is not None,
        "goal_stamp": messages.time_message(found.goal_stamp_ns or 0),
        "current_energy": math.nan if found.current_energy is None else found.current_energy,
        "energies": messages.tensor("energies", none if found.energies is None else found.energies),
        "error_bounds": np.asarray(found.error_bounds, np.float32),
    }
