"""Rollouts on the sessions of a predictor: buffers filled, run and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import Divided, Session
from jepa_runtime.bundle import Manifest

Floats = NDArray[np.float32]
# What was seen [W, T, D] (or one [T, D] that stands for all), the actions between [W-1, A] (None: zero), and
# the actions since [h, A].
Asked = tuple[Floats, NDArray[np.floating] | None, NDArray[np.floating]]


class Rollouts:
    """Rollouts of a model. H of a session is that of its graph, h at most H, K' at most K."""

    def __init__(self, manifest: Manifest) -> None:
        self._latent = manifest.io.latent.tokens, manifest.io.latent.dim
        self._history = manifest.history_size, *self._latent
        self._history_actions = manifest.history_size - 1, manifest.action_size

    def run(
        self,
        session: Session,
        actions: Floats,
        latents: Floats,
        history_actions: NDArray[np.floating] | None,
    ) -> Floats:
        """What one history leads to under ``actions`` [K', h, A]: a view [K', h, T, D] on the session's
        output.

        Raises:
            ValueError: a shape is another, or an action is not finite.
        """
        self._fill(session.inputs, actions, latents, history_actions)
        count, steps = actions.shape[:2]
        futures: Floats = session.run()["futures"][:count, :steps]
        return futures

    def each(self, session: Session, asked: Sequence[Asked]) -> list[Floats]:
        """What each history leads to under actions of its own: [h, T, D] each.

        They share the parts of a session that is divided, and else come one after the other.

        Raises:
            ValueError: a shape is another, or an action is not finite.
        """
        found: list[Floats] = []
        if not isinstance(session, Divided):
            for latents, history_actions, actions in asked:
                chosen = np.asarray(actions, np.float32)[None]
                found.append(self.run(session, chosen, latents, history_actions)[0].copy())
            return found
        for start in range(0, len(asked), len(session.parts)):
            together = list(zip(asked[start : start + len(session.parts)], session.parts, strict=False))
            for (latents, history_actions, actions), part in together:
                self._fill(part.inputs, np.asarray(actions, np.float32)[None], latents, history_actions)
            session.run_parts(len(together))
            found += [part.outputs["futures"][0, : len(one[2])].copy() for one, part in together]
        return found

    def _fill(
        self,
        inputs: Mapping[str, NDArray[Any]],
        actions: Floats,
        latents: Floats,
        history_actions: NDArray[np.floating] | None,
    ) -> None:
        before = 0 if history_actions is None else history_actions
        if not (np.isfinite(actions).all() and np.isfinite(before).all()):
            raise ValueError("actions must be finite, got NaN or infinity")
        if latents.shape not in (self._history, self._latent):
            raise ValueError(
                f"latents must be {list(self._history)} or {list(self._latent)}, got {list(latents.shape)}"
            )
        if history_actions is not None and np.shape(history_actions) != self._history_actions:
            raise ValueError(
                f"history_actions must be {list(self._history_actions)}, got "
                f"{list(np.shape(history_actions))}"
            )
        inputs["history_latents"][0] = latents
        if self._history_actions[0]:
            inputs["history_actions"][0] = before
        buffer = inputs["actions"]
        if actions.shape == buffer.shape:
            buffer[:] = actions
        else:
            # What the last call left must not make equal calls differ.
            buffer[:] = 0
            buffer[: actions.shape[0], : actions.shape[1]] = actions
