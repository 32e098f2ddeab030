"""Renders latents and predicted futures as images, for viewers that display only images.

It runs in its own process so that rendering does not delay inference. Images and futures are deserialized
only if they are rendered, and nothing is rendered without a subscriber.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from jepa_msgs.msg import LatentState, ModelInfo, PredictedFutures
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from jepa_ros.common import qos, raw_topics
from jepa_ros.common.conversions import fill
from jepa_ros.common.parameters import declare_parameters, parameter_values
from jepa_ros.common.spin import run
from jepa_ros.nodes.pictures_parameters import PARAMETERS
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging import image_from_message
from jepa_runtime.recording import messages
from jepa_runtime.visualization import Atlas, GrowingAtlas, Predictions, check_finite, draw_images, stamp_of

_NS = 1_000_000_000
# The latent of an image arrives after later images.
_IMAGES = 16


class PicturesNode(Node):
    """Render latents and futures at a low rate. ros2_ws/README.md lists its topics and parameters.

    Attributes:
        atlas: Atlas of the parameter atlas_bundle, or None.
        outputs: Publishers by picture: latent, futures, map.
        trail: Stamps [ns] and latents of the last trail_s, oldest first.
    """

    def __init__(self) -> None:
        super().__init__("pictures")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        values = parameter_values(self, PARAMETERS)
        self._period_s, self._trail_ns = 1.0 / values["pictures_hz"], round(values["trail_s"] * _NS)
        bundle = values["atlas_bundle"]
        self.atlas: Atlas | None = Atlas.from_bundle(Bundle.open(bundle)) if bundle else None
        self._atlas_fits = False
        self._active_model: tuple[str, str] | None = None
        self._growing_atlas: GrowingAtlas | None = None
        self.trail: deque[tuple[int, Any]] = deque()
        self._images: deque[tuple[int, type[Any], bytes]] = deque(maxlen=_IMAGES)
        self._futures: bytes | None = None
        self._drawn = 0
        self.outputs = {
            name: self.create_publisher(CompressedImage, f"~/{name}/image", qos.RESULT)
            for name in ("latent", "futures", "map")
        }
        subscribe, skip_errors = self.create_subscription, self.skip_errors
        subscribe(ModelInfo, "world_model/model_info", skip_errors(self.on_model), qos.LATCHED)
        subscribe(LatentState, "world_model/latent", skip_errors(self.on_latent), qos.RESULT)
        subscribe(PredictedFutures, "world_model/futures", self.on_futures, qos.RESULT, raw=True)
        for message_type, topic in ((Image, "image"), (CompressedImage, "image/compressed")):
            subscribe(
                message_type, topic, skip_errors(self.image_callback(message_type)), qos.SENSOR, raw=True
            )
        self.create_timer(self._period_s, skip_errors(self.draw))

    def skip_errors(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``callback`` to log and skip input that cannot be read or rendered, such as NaN."""

        # Executors inspect the signature of a callback.
        @wraps(callback)
        def call(*message: Any) -> None:
            try:
                callback(*message)
            except Exception as error:
                self.get_logger().warning(f"input skipped: {error}", throttle_duration_sec=5.0)

        return call

    def image_callback(self, message_type: type[Any]) -> Any:
        """Return a callback that stores serialized images of this type."""
        return lambda cdr: self._images.append((raw_topics.stamp_ns(cdr), message_type, cdr))

    def on_model(self, info: ModelInfo) -> None:
        """Reset the stored latents, since those of another model are not comparable."""
        self._growing_atlas = GrowingAtlas(max(1, round(info.horizon * info.step_s / self._period_s)))
        self._active_model = info.model_id, info.version
        self._atlas_fits = self.atlas is not None and self.atlas.latents.shape[1:] == (
            info.tokens,
            info.dim,
        )
        if self.atlas is not None and not self._atlas_fits:
            self.get_logger().warning(
                f"atlas_bundle has latents of shape {list(self.atlas.latents.shape[1:])}, but "
                f"{info.model_id} {info.version} has {[info.tokens, info.dim]}: using frames of this run"
            )
        self.trail.clear()
        self._futures = None

    def on_latent(self, message: LatentState) -> None:
        """Append a latent to the trail."""
        # Topics are not ordered: the latent may be of the previous model, or of one not yet announced.
        if (message.model_id, message.model_version) != self._active_model:
            return
        stamp, latent = stamp_of(message), messages.array_of(message.latent)
        check_finite(latent)
        if message.history_reset:
            self.trail.clear()
        while self.trail and self.trail[-1][0] >= stamp:
            self.trail.pop()
        self.trail.append((stamp, latent))
        while self.trail[0][0] < stamp - self._trail_ns:
            self.trail.popleft()

    def on_futures(self, cdr: bytes) -> None:
        """Store the serialized futures until the next picture."""
        self._futures = cdr

    def draw(self) -> None:
        """Render and publish the pictures, if anything is new and there is a subscriber."""
        if self._futures is None or self._growing_atlas is None or not self.trail:
            return
        self._add_to_atlas(self._growing_atlas)
        atlas = self.atlas if self._atlas_fits else self._growing_atlas.atlas()
        if atlas is None or not any(output.get_subscription_count() for output in self.outputs.values()):
            return
        predictions = Predictions.from_message(deserialize_message(self._futures, PredictedFutures))
        self._futures = None
        trail = np.stack([latent for _, latent in self.trail])
        if predictions.latents.shape[2:] != trail.shape[1:]:
            return
        for name, image in draw_images(trail, predictions, atlas, self._trail_ns / _NS).items():
            message = fill(CompressedImage(), messages.compressed_image(image, predictions.stamp_ns, ""))
            self.outputs[name].publish(message)
        self._drawn += 1

    def _add_to_atlas(self, atlas: GrowingAtlas) -> None:
        """Add the newest latent whose image has arrived."""
        images = {stamp: (message_type, cdr) for stamp, message_type, cdr in self._images}
        found = next((entry for entry in reversed(self.trail) if entry[0] in images), None)
        if found is None:
            return
        self._images.clear()
        message_type, cdr = images[found[0]]
        try:
            atlas.add(found[1], image_from_message(deserialize_message(cdr, message_type)))
        except FrameError as error:
            self.get_logger().warning(f"image rejected: {error}", throttle_duration_sec=5.0)

    def stop(self) -> None:
        """Do nothing: no resource is open."""

    def report(self) -> dict[str, Any]:
        """Return the number of rendered updates."""
        return {"drawn": self._drawn}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros pictures``."""
    sys.exit(run(PicturesNode))
