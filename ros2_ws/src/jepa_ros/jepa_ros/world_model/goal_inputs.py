"""Goals of the cameras of a world_model node: latched goal images and requests to ``~/set_goal``.

The most recent one applies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jepa_msgs.srv import SetGoal
from rclpy.node import Node
from sensor_msgs.msg import Image

from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from jepa_ros.world_model.camera_streams import CameraStream, find_camera
from jepa_ros.world_model.model_opening import ServingSession
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.imaging import image_from_message
from jepa_runtime.recording import messages


class GoalInputs:
    """Receive goals and pass them to the pipeline.

    Args:
        owner: The world_model node.
        session: Returns the current session; raises JepaRuntimeError if the node is not configured.
        cameras: Returns the cameras by image topic.
    """

    def __init__(
        self,
        owner: Node,
        session: Callable[[], ServingSession],
        cameras: Callable[[], Mapping[str, CameraStream]],
    ) -> None:
        self._owner, self._session, self._cameras = owner, session, cameras
        self._log = owner.get_logger()
        # Stamps of the current and the previous goal set through the service, by camera. The inference thread
        # reads them.
        self._requested: dict[str, tuple[int, ...]] = {}
        self._subscriptions: list[Any] = []
        owner.create_service(SetGoal, "~/set_goal", self._on_request)

    def subscribe(self) -> None:
        """Subscribe to goal images until :meth:`close`, also while the node is inactive.

        A new subscription would receive the latched image again, however old.
        """
        for camera in self._cameras().values():
            callback = functools.partial(self.on_image, camera)
            self._subscriptions.append(
                self._owner.create_subscription(Image, camera.goal_topic, callback, qos.LATCHED)
            )

    def close(self) -> None:
        """Unsubscribe and forget the goals, after the model is closed."""
        for subscription in self._subscriptions:
            self._owner.destroy_subscription(subscription)
        self._requested, self._subscriptions = {}, []

    def is_requested(self, camera: CameraStream, stamp_ns: int | None) -> bool:
        """Return whether the goal with this stamp was set through the service."""
        return stamp_ns in self._requested.get(camera.topic, ())

    def on_image(self, camera: CameraStream, message: Image) -> None:
        """Set the goal of ``camera`` to an image. An image of size zero clears it."""
        try:
            self._set_goal(camera, message)
            # Only after success: if the image is rejected, the requested goal stays.
            stamp_ns = from_time(message.header.stamp)
            before = self._requested.get(camera.topic, ())
            self._requested[camera.topic] = tuple(stamp for stamp in before if stamp != stamp_ns)
        except JepaRuntimeError as error:
            self._log.error(f"goal image rejected: {error}")

    def _on_request(self, request: Any, response: Any) -> Any:
        before = self._requested
        try:
            camera = find_camera(self._cameras(), request.camera)
            if request.latent.data or request.image.data:
                # Futures for the new goal may be published before set_goal returns, and those in progress
                # still belong to the previous goal.
                requested = (*before.get(camera.topic, ())[-1:], from_time(request.stamp))
                self._requested = before | {camera.topic: requested}
            if request.latent.data:
                latent = messages.array_of(request.latent).astype(np.float32)
                self._session().pipeline.set_goal(latent, from_time(request.stamp), camera.topic)
            else:
                request.image.header.stamp = request.stamp
                self._set_goal(camera, request.image)
            response.success = True
        except (JepaRuntimeError, ValueError) as error:
            self._requested = before
            response.message = str(error)
            self._log.error(f"goal rejected: {error}")
        return response

    def _set_goal(self, camera: CameraStream, message: Image) -> None:
        image = image_from_message(message) if message.height and message.width else None
        self._session().pipeline.set_goal(image, from_time(message.header.stamp), camera.topic)
