"""What the streams of a pipeline are to seek."""

from __future__ import annotations

from threading import Lock
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.world_model import WorldModel

# An image, uint8 [h, w, 3] RGB, or a latent, float32 [T, D].
Goal = NDArray[np.uint8] | NDArray[np.float32]


class Goals:
    """The newest goal of each stream, from whoever sets it to the inference thread that takes it. Any thread
    may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        # With the stamp, and the latent space of what is a latent.
        self._sought: dict[str, tuple[Goal | None, int, str]] = {}
        self._waiting: set[str] = set()

    def set(self, stream: str, goal: NDArray[np.uint8] | None, stamp_ns: int) -> None:
        """``stream`` is to seek what an image shows; None: nothing."""
        self._set(stream, goal, stamp_ns, "")

    def set_latent(self, stream: str, goal: Goal, stamp_ns: int, model: WorldModel) -> None:
        """``stream`` is to seek a latent of ``model``, which means nothing to models of another latent space.

        Raises:
            ValueError: it has another shape, or is not finite.
        """
        latent = model.manifest.io.latent
        if goal.shape != (latent.tokens, latent.dim) or not np.isfinite(goal).all():
            raise ValueError(
                f"the goal must be [{latent.tokens}, {latent.dim}] finite numbers, got {list(goal.shape)}"
            )
        self._set(stream, goal, stamp_ns, model.latent_space)

    def set_again(self) -> None:
        """What is sought is to be taken once more: by another model."""
        with self._lock:
            self._waiting.update(self._sought)

    def take(self, latent_space: str) -> list[tuple[str, Goal | None, int]]:
        """Stream, goal and stamp of what was set since this was last called, for a model of this space. A
        latent of another space is forgotten."""
        with self._lock:
            taken = []
            while self._waiting:
                stream = self._waiting.pop()
                goal, stamp_ns, space = self._sought[stream]
                if space not in ("", latent_space):
                    goal = None
                    self._sought[stream] = (None, stamp_ns, "")
                taken.append((stream, goal, stamp_ns))
            return taken

    def _set(self, stream: str, goal: Goal | None, stamp_ns: int, space: str) -> None:
        with self._lock:
            self._sought[stream] = (goal, stamp_ns, space)
            self._waiting.add(stream)


def is_image(goal: Goal) -> TypeGuard[NDArray[np.uint8]]:
    """Whether it is to be encoded: else it is a latent of one model, and means nothing to others."""
    return goal.dtype == np.uint8
