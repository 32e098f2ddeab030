"""Rollouts on the sessions of a predictor: fill the input buffers, run, read the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import PartitionedSession, Session
from jepa_runtime.bundle import Manifest

Floats = NDArray[np.float32]


class RolloutRequest(NamedTuple):
    """A history and the actions after it.

    Attributes:
        latents: Past latents [W, T, D], or one [T, D] that is repeated.
        history_actions: The actions between them [W-1, A]; None: zero.
        actions: The future actions [h, A].
        history_states: The states of the robot at the latents [W, S]; None if the model reads none.
    """

    latents: Floats
    history_actions: NDArray[np.floating] | None
    actions: NDArray[np.floating]
    history_states: NDArray[np.floating] | None = None


def zero_states(manifest: Manifest) -> Floats | None:
    """Return states [W, S] of zeros, for runs whose values do not matter; None: the model reads no state."""
    shape = manifest.history_size, manifest.state_size
    return np.zeros(shape, np.float32) if manifest.state_size else None


class Rollouts:
    """Runs rollouts of a model. H is the horizon of the session's graph; h <= H and K' <= K."""

    def __init__(self, manifest: Manifest) -> None:
        self._latent = manifest.io.latent.tokens, manifest.io.latent.dim
        self._history = manifest.history_size, *self._latent
        self._history_actions = manifest.history_size - 1, manifest.action_size
        self._history_states = manifest.history_size, manifest.state_size

    def run(
        self,
        session: Session,
        actions: Floats,
        latents: Floats,
        history_actions: NDArray[np.floating] | None,
        history_states: NDArray[np.floating] | None = None,
    ) -> Floats:
        """Predict the futures of one history under ``actions`` [K', h, A].

        Returns:
            A view [K', h, T, D] of the session's output.

        Raises:
            ValueError: A shape is wrong, or an action or a state is not finite.
        """
        self._fill(session.inputs, actions, latents, history_actions, history_states)
        count, steps = actions.shape[:2]
        futures: Floats = session.run()["futures"][:count, :steps]
        return futures

    def each(self, session: Session, requests: Sequence[RolloutRequest]) -> list[Floats]:
        """Predict the future of each history under its own actions: [h, T, D] each.

        They run in the parts of a partitioned session in parallel, otherwise one after the other.

        Raises:
            ValueError: A shape is wrong, or an action or a state is not finite.
        """
        found: list[Floats] = []
        if not isinstance(session, PartitionedSession):
            for latents, history_actions, actions, states in requests:
                chosen = np.asarray(actions, np.float32)[None]
                found.append(self.run(session, chosen, latents, history_actions, states)[0].copy())
            return found
        for start in range(0, len(requests), len(session.parts)):
            together = list(zip(requests[start : start + len(session.parts)], session.parts, strict=False))
            for (latents, history_actions, actions, states), part in together:
                chosen = np.asarray(actions, np.float32)[None]
                self._fill(part.inputs, chosen, latents, history_actions, states)
            session.run_parts(len(together))
            found += [part.outputs["futures"][0, : len(one.actions)].copy() for one, part in together]
        return found

    def _fill(
        self,
        inputs: Mapping[str, NDArray[Any]],
        actions: Floats,
        latents: Floats,
        history_actions: NDArray[np.floating] | None,
        history_states: NDArray[np.floating] | None,
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
        self._fill_states(inputs, history_states)
        inputs["history_latents"][0] = latents
        if self._history_actions[0]:
            inputs["history_actions"][0] = before
        buffer = inputs["actions"]
        if actions.shape == buffer.shape:
            buffer[:] = actions
        else:
            # Values of the previous call must not affect this one.
            buffer[:] = 0
            buffer[: actions.shape[0], : actions.shape[1]] = actions

    def _fill_states(self, inputs: Mapping[str, NDArray[Any]], states: NDArray[np.floating] | None) -> None:
        if not self._history_states[1]:
            if states is not None:
                raise ValueError("history_states must be None: the model reads no state of the robot")
            return
        if states is None or np.shape(states) != self._history_states or not np.isfinite(states).all():
            raise ValueError(
                f"history_states must be {list(self._history_states)} finite numbers, the robot's states at "
                f"the latents, got {None if states is None else np.asarray(states).tolist()}"
            )
        inputs["history_states"][0] = states
