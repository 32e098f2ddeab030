"""The services ``~/evaluate_actions`` and ``~/score_latents`` of the world_model node.

They run on their own threads: a reply waits for idle time between images, which must be received meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jepa_msgs.srv import EvaluateActions, ScoreLatents
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.common.conversions import fill
from jepa_ros.world_model.camera_streams import CameraStream, find_camera
from jepa_ros.world_model.model_opening import ServingSession
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import messages
from jepa_runtime.serving import Evaluation

# Requests that are processed at once. Further ones wait in the middleware.
_THREADS = 4
_DEFAULT_DEADLINE_S, _MAX_DEADLINE_S = 1.0, 60.0


class EvaluationService:
    """Serve ``~/evaluate_actions`` and ``~/score_latents`` of ``owner``.

    Args:
        owner: The world_model node.
        session: Returns the current session; raises JepaRuntimeError if the node is not configured.
        cameras: Returns the cameras by image topic.
        dtype: Returns the type of the latents in a response.
    """

    def __init__(
        self,
        owner: Node,
        session: Callable[[], ServingSession],
        cameras: Callable[[], Mapping[str, CameraStream]],
        dtype: Callable[[], str],
    ) -> None:
        self._session, self._cameras, self._dtype = session, cameras, dtype
        self._log = owner.get_logger()
        self._services = BackgroundServices(owner, "evaluations", MultiThreadedExecutor(_THREADS))
        self._services.add_service(EvaluateActions, "~/evaluate_actions", self._on_evaluate)
        self._services.add_service(ScoreLatents, "~/score_latents", self._on_score)
        self._services.start()

    def close(self) -> None:
        """Stop serving. The model must be closed already."""
        self._services.stop()

    def _on_evaluate(self, request: Any, response: Any) -> Any:
        return self._respond(lambda: _fields(self._evaluate(request), self._dtype()), response)

    def _on_score(self, request: Any, response: Any) -> Any:
        return self._respond(lambda: self._score(request), response)

    def _respond(self, compute: Callable[[], dict[str, Any]], response: Any) -> Any:
        # No exception of the model may end the serving thread.
        try:
            fill(response, compute())
            response.success = True
        except (JepaRuntimeError, ValueError) as error:
            response.message = str(error)
            self._log.warning(f"evaluation rejected: {error}", throttle_duration_sec=5.0)
        except Exception as error:
            response.message = str(error)
            self._log.error(f"evaluation failed: {error}", throttle_duration_sec=5.0)
        return response

    def _score(self, request: Any) -> dict[str, Any]:
        scores = self._session().pipeline.score(
            messages.array_of(request.latents),
            messages.array_of(request.goal) if request.goal.data else None,
            timeout_s=_deadline_s(request),
            stream=find_camera(self._cameras(), request.camera).topic,
            pose_indices=request.pose_indices,
        )
        return {
            "energies": scores.energies,
            "relative_poses": scores.poses,
            "stamp": messages.time_message(scores.stamp_ns),
            "latent_space": scores.latent_space,
        }

    def _evaluate(self, request: Any) -> Evaluation:
        return self._session().pipeline.evaluate(
            messages.array_of(request.actions),
            timeout_s=_deadline_s(request),
            stream=find_camera(self._cameras(), request.camera).topic,
            latents=request.latents,
        )


def _deadline_s(request: Any) -> float:
    deadline_s = float(request.deadline_s or _DEFAULT_DEADLINE_S)
    if not 0 < deadline_s <= _MAX_DEADLINE_S:
        raise JepaRuntimeError(
            f"deadline_s must be 0 to {_MAX_DEADLINE_S:g}, got {deadline_s:g}", code="node.invalid_request"
        )
    return deadline_s


def _fields(evaluation: Evaluation, dtype: str) -> dict[str, Any]:
    no_energies, no_latents = np.zeros((0, 0), np.float32), np.zeros((0, 0, 0, 0), np.float32)
    latents = no_latents if evaluation.latents is None else evaluation.latents
    energies = no_energies if evaluation.energies is None else evaluation.energies
    return {
        "stamp": messages.time_message(evaluation.stamp_ns),
        "latents": messages.tensor("latents", latents.astype(dtype)),
        "has_goal": evaluation.goal_stamp_ns is not None,
        "goal_stamp": messages.time_message(evaluation.goal_stamp_ns or 0),
        "current_energy": math.nan if evaluation.current_energy is None else evaluation.current_energy,
        "energies": messages.tensor("energies", energies),
        "error_bounds": np.asarray(evaluation.error_bounds, np.float32),
    }
