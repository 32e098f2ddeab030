"""The camera of a robot in one layout: rendered images with sensor noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.layouts import PackedLayouts
from jepa_sim.worlds.first_person.rendering import render
from jepa_sim.worlds.interface import Image

# Standard deviation of each value.
NOISE = 2.0


class Camera:
    """The camera.

    Args:
        layouts: One layout.
        rng: Random numbers of the noise.

    Attributes:
        layouts: One layout; it may be replaced.
    """

    def __init__(self, layouts: PackedLayouts, rng: np.random.Generator) -> None:
        self.layouts = layouts
        self._rng = rng

    def image(self, pose: Pose) -> Image:
        """Return the image at a pose [3], uint8 [72, 96, 3] RGB."""
        image: Image = self.images(pose[None])[0]
        return image

    def images(self, poses: Pose) -> NDArray[np.uint8]:
        """Return the images at N poses [N, 3], uint8 [N, 72, 96, 3] RGB."""
        images = render(self.layouts, poses, np.zeros(len(poses), np.int64))
        return with_noise(images, self._rng)


def with_noise(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return images with the noise of the sensor."""
    noise = rng.standard_normal(images.shape, np.float32) * NOISE
    return np.clip(images + noise, 0, 255).astype(np.uint8)
