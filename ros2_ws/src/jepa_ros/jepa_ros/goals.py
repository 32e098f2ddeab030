"""What the cameras of a world model are to seek: the latched goal image of each, or what ``~/set_goal`` says.
The newest word holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jepa_msgs.srv import SetGoal
from rclpy.node import Node
from sensor_msgs.msg import Image

from jepa_ros.conversions import from_time
from jepa_ros.images import ImageReader
from jepa_ros.opening import Served
from jepa_ros.serving import Camera, camera_named
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording.messages import array_of


class Goals:
    """Takes goals to the pipeline.

    Args:
        served: what is served now; raises JepaRuntimeError while nothing is.
        cameras: by the topics of their images.
    """

    def __init__(
        self, owner: Node, served: Callable[[], Served], cameras: Callable[[], Mapping[str, Camera]]
    ) -> None:
        self._served, self._cameras = served, cameras
        self._log = owner.get_logger()
        owner.create_service(SetGoal, "~/set_goal", self._answer)

    def on_image(self, camera: Camera, message: Image) -> None:
        """A goal image came; one of size zero takes the goal back."""
        try:
            self._seek(camera, message)
        except JepaRuntimeError as error:
            self._log.error(f"goal image refused: {error}")

    def _answer(self, request: Any, response: Any) -> Any:
        try:
            camera = camera_named(self._cameras(), request.camera)
            if request.latent.data:
                latent = array_of(request.latent).astype(np.float32)
                self._served().pipeline.set_goal(latent, from_time(request.stamp), camera.topic)
            else:
                request.image.header.stamp = request.stamp
                self._seek(camera, request.image)
            response.success = True
        except (JepaRuntimeError, ValueError) as error:
            response.message = str(error)
            self._log.error(f"goal refused: {error}")
        return response

    def _seek(self, camera: Camera, message: Image) -> None:
        image = ImageReader.decode(message) if message.height and message.width else None
        self._served().pipeline.set_goal(image, from_time(message.header.stamp), camera.topic)
