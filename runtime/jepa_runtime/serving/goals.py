"""The goals of the streams of a pipeline."""

from __future__ import annotations

from threading import Lock
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.world_model import WorldModel

# An image, uint8 [h, w, 3] RGB, or a latent, float32 [T, D].
Goal = NDArray[np.uint8] | NDArray[np.float32]


class Goals:
    """The newest goal of each stream, on its way to the inference thread. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        # Goal, stamp, and the latent space of a latent (empty for an image).
        self._goals: dict[str, tuple[Goal | None, int, str]] = {}
        self._pending: set[str] = set()

    def set(self, stream: str, goal: NDArray[np.uint8] | None, stamp_ns: int) -> None:
        """Set the goal image of ``stream``; None: no goal."""
        self._set(stream, goal, stamp_ns, "")

    def set_latent(self, stream: str, goal: Goal, stamp_ns: int, model: WorldModel) -> None:
        """Set a latent of ``model`` as the goal of ``stream``.

        Models with another latent space drop it.

        Raises:
            ValueError: It has another shape, or is not finite.
        """
        latent = model.manifest.io.latent
        if goal.shape != (latent.tokens, latent.dim) or not np.isfinite(goal).all():
            raise ValueError(
                f"the goal must be [{latent.tokens}, {latent.dim}] finite numbers, got {list(goal.shape)}"
            )
        self._set(stream, goal, stamp_ns, model.latent_space)

    def set_again(self) -> None:
        """Return all goals from the next :meth:`take` again, for another model."""
        with self._lock:
            self._pending.update(self._goals)

    def take(self, latent_space: str) -> list[tuple[str, Goal | None, int]]:
        """Return stream, goal and stamp of each goal that was set since the last call.

        Args:
            latent_space: Latent space of the model. A latent of another space is dropped.
        """
        with self._lock:
            taken = []
            while self._pending:
                stream = self._pending.pop()
                goal, stamp_ns, space = self._goals[stream]
                if space not in ("", latent_space):
                    goal = None
                    self._goals[stream] = (None, stamp_ns, "")
                taken.append((stream, goal, stamp_ns))
            return taken

    def _set(self, stream: str, goal: Goal | None, stamp_ns: int, space: str) -> None:
        with self._lock:
            self._goals[stream] = (goal, stamp_ns, space)
            self._pending.add(stream)


def is_image(goal: Goal) -> TypeGuard[NDArray[np.uint8]]:
    """Return whether the goal is an image, to be encoded; else it is a latent of one model."""
    return goal.dtype == np.uint8
