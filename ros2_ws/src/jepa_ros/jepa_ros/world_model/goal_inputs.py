"""What the cameras of a world model are to seek: the latched goal image of each, or what ``~/set_goal`` says.
The newest word holds."""

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
from jepa_ros.world_model.camera_streams import CameraStream, camera_named
from jepa_ros.world_model.model_opening import Served
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.recording.messages import array_of


class Goals:
    """Takes goals to the pipeline.

    Args:
        served: what is served now; raises JepaRuntimeError while nothing is.
        cameras: by the topics of their images.
    """

    def __init__(
        self, owner: Node, served: Callable[[], Served], cameras: Callable[[], Mapping[str, CameraStream]]
    ) -> None:
        self._owner, self._served, self._cameras = owner, served, cameras
        self._log = owner.get_logger()
        # The stamps of what was asked for, and before that, by camera. Read by the inference thread.
        self._asked: dict[str, tuple[int, ...]] = {}
        self._images: list[Any] = []
        owner.create_service(SetGoal, "~/set_goal", self._answer)

    def listen(self) -> None:
        """Take goal images until :meth:`forget`, while the node is not active too: whoever listens anew is
        told all that is latched, however old."""
        for camera in self._cameras().values():
            take = functools.partial(self.on_image, camera)
            self._images.append(self._owner.create_subscription(Image, camera.goal_topic, take, qos.LATCHED))

    def forget(self) -> None:
        """The model is closed, and the goals with it."""
        for subscription in self._images:
            self._owner.destroy_subscription(subscription)
        self._asked, self._images = {}, []

    def is_asked(self, camera: CameraStream, stamp_ns: int | None) -> bool:
        """Whether the goal of this stamp was set through the service."""
        return stamp_ns in self._asked.get(camera.topic, ())

    def on_image(self, camera: CameraStream, message: Image) -> None:
        """A goal image came; one of size zero takes the goal back."""
        try:
            self._seek(camera, message)
            # What was asked for is still sought where the image is refused.
            stamp_ns = from_time(message.header.stamp)
            before = self._asked.get(camera.topic, ())
            self._asked[camera.topic] = tuple(stamp for stamp in before if stamp != stamp_ns)
        except JepaRuntimeError as error:
            self._log.error(f"goal image refused: {error}")

    def _answer(self, request: Any, response: Any) -> Any:
        before = self._asked
        try:
            camera = camera_named(self._cameras(), request.camera)
            if request.latent.data or request.image.data:
                # Futures about it may be out before it is handed over, and those under way are about the one
                # before.
                asked = (*before.get(camera.topic, ())[-1:], from_time(request.stamp))
                self._asked = before | {camera.topic: asked}
            if request.latent.data:
                latent = array_of(request.latent).astype(np.float32)
                self._served().pipeline.set_goal(latent, from_time(request.stamp), camera.topic)
            else:
                request.image.header.stamp = request.stamp
                self._seek(camera, request.image)
            response.success = True
        except (JepaRuntimeError, ValueError) as error:
            self._asked = before
            response.message = str(error)
            self._log.error(f"goal refused: {error}")
        return response

    def _seek(self, camera: CameraStream, message: Image) -> None:
        image = image_from_message(message) if message.height and message.width else None
        self._served().pipeline.set_goal(image, from_time(message.header.stamp), camera.topic)
