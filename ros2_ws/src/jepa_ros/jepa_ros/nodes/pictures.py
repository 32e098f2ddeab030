"""What the model sees and foresees as images, for viewers that show images but know nothing of latents.

A process of its own: drawing takes the time of whoever draws, and inference must not wait for it. Of images
and futures only the few that are drawn are deserialised, and nothing is drawn while nobody looks.
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
from jepa_ros.common.parameters import REPORT_PATH, Parameter, declare, values
from jepa_ros.common.spin import run
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.recording.messages import array_of, compressed_image
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.growing_atlas import GrowingAtlas
from jepa_runtime.visualization.predictions import Predictions, check_finite, stamp_of
from jepa_runtime.visualization.topic_images import draw_images

PARAMETERS = (
    Parameter(
        name="pictures_hz",
        default=2.0,
        description="Pictures drawn per second [Hz].",
        low=0.1,
        high=30.0,
        read_only=True,
    ),
    Parameter(
        name="trail_s",
        default=10.0,
        description="How far back pictures reach [s].",
        low=0.5,
        high=600.0,
        read_only=True,
    ),
    Parameter(
        name="atlas_bundle",
        default="",
        description="Bundle whose atlas is shown; empty, or one without: frames of this run are remembered.",
        read_only=True,
    ),
    REPORT_PATH,
)
_NS = 1_000_000_000
# The latent of an image comes while later ones are on their way.
_IMAGES = 16


class PicturesNode(Node):
    """Draws at a low rate. See ros2_ws/README.md for its topics and parameters."""

    def __init__(self) -> None:
        super().__init__("pictures")
        self.finished = threading.Event()
        self.failure = ""
        declare(self, PARAMETERS)
        chosen = values(self, PARAMETERS)
        self._period_s, self._trail_ns = 1.0 / chosen["pictures_hz"], round(chosen["trail_s"] * _NS)
        bundle = chosen["atlas_bundle"]
        self._atlas: Atlas | None = Atlas.from_bundle(Bundle.open(bundle)) if bundle else None
        self._fits = False
        self._served: tuple[str, str] | None = None
        self._scrapbook: GrowingAtlas | None = None
        self._trail: deque[tuple[int, Any]] = deque()
        self._images: deque[tuple[int, type[Any], bytes]] = deque(maxlen=_IMAGES)
        self._futures: bytes | None = None
        self._drawn = 0
        self._outputs = {
            name: self.create_publisher(CompressedImage, f"~/{name}/image", qos.RESULT)
            for name in ("latent", "futures", "map")
        }
        subscribe, fit = self.create_subscription, self._while_fit
        subscribe(ModelInfo, "world_model/model_info", fit(self._on_model), qos.LATCHED)
        subscribe(LatentState, "world_model/latent", fit(self._on_latent), qos.RESULT)
        subscribe(PredictedFutures, "world_model/futures", self._on_futures, qos.RESULT, raw=True)
        for kind, topic in ((Image, "image"), (CompressedImage, "image/compressed")):
            subscribe(kind, topic, fit(self._taking(kind)), qos.SENSOR, raw=True)
        self.create_timer(self._period_s, fit(self._draw))

    def _while_fit(self, take: Callable[..., None]) -> Callable[..., None]:
        """What cannot be read or drawn, such as what is no number, is told and left out."""

        # Executors look at what a callback can take.
        @wraps(take)
        def taking(*message: Any) -> None:
            try:
                take(*message)
            except Exception as error:
                self.get_logger().warning(f"left out: {error}", throttle_duration_sec=5.0)

        return taking

    def _taking(self, kind: type[Any]) -> Any:
        return lambda cdr: self._images.append((raw_topics.stamp_ns(cdr), kind, cdr))

    def _on_model(self, info: ModelInfo) -> None:
        """Another model may see otherwise: what was remembered of the last one is forgotten."""
        self._scrapbook = GrowingAtlas(max(1, round(info.horizon * info.step_s / self._period_s)))
        self._served = info.model_id, info.version
        self._fits = self._atlas is not None and self._atlas.latents.shape[1:] == (info.tokens, info.dim)
        if self._atlas is not None and not self._fits:
            self.get_logger().warning(
                f"atlas_bundle remembers latents of {list(self._atlas.latents.shape[1:])}, those of "
                f"{info.model_id} {info.version} are {[info.tokens, info.dim]}: frames of this run are shown"
            )
        self._trail.clear()
        self._futures = None

    def _on_latent(self, message: LatentState) -> None:
        # Topics overtake each other: this may be of the model before, or of one that is yet to be told.
        if (message.model_id, message.model_version) != self._served:
            return
        stamp, latent = stamp_of(message), array_of(message.latent)
        check_finite(latent)
        if message.history_reset:
            self._trail.clear()
        while self._trail and self._trail[-1][0] >= stamp:
            self._trail.pop()
        self._trail.append((stamp, latent))
        while self._trail[0][0] < stamp - self._trail_ns:
            self._trail.popleft()

    def _on_futures(self, cdr: bytes) -> None:
        self._futures = cdr

    def _draw(self) -> None:
        if self._futures is None or self._scrapbook is None or not self._trail:
            return
        self._remember(self._scrapbook)
        atlas = self._atlas if self._fits else self._scrapbook.atlas()
        if atlas is None or not any(output.get_subscription_count() for output in self._outputs.values()):
            return
        foreseen = Predictions.from_message(deserialize_message(self._futures, PredictedFutures))
        self._futures = None
        trail = np.stack([latent for _, latent in self._trail])
        if foreseen.latents.shape[2:] != trail.shape[1:]:
            return
        for name, image in draw_images(trail, foreseen, atlas, self._trail_ns / _NS).items():
            shown = fill(CompressedImage(), compressed_image(image, foreseen.stamp_ns, ""))
            self._outputs[name].publish(shown)
        self._drawn += 1

    def _remember(self, scrapbook: GrowingAtlas) -> None:
        """Put the newest latent whose image is here into the scrapbook."""
        images = {stamp: (kind, cdr) for stamp, kind, cdr in self._images}
        found = next((entry for entry in reversed(self._trail) if entry[0] in images), None)
        if found is None:
            return
        self._images.clear()
        kind, cdr = images[found[0]]
        try:
            scrapbook.add(found[1], image_from_message(deserialize_message(cdr, kind)))
        except FrameError as error:
            self.get_logger().warning(f"image refused: {error}", throttle_duration_sec=5.0)

    def stop(self) -> None:
        """Nothing is held open."""

    def report(self) -> dict[str, Any]:
        """How often pictures were drawn."""
        return {"drawn": self._drawn}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros pictures``."""
    sys.exit(run(PicturesNode))
