"""A LeRobot policy whose chunks go through the critic.

Tensors are those of the policy; this module does not import torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.critic.critic import Critic, Floats32
from jepa_runtime.critic.verdict import CriticVerdict, Response
from jepa_runtime.errors import CriticError
from jepa_runtime.imaging.conversion import ImageLike
from jepa_runtime.model.world_model import WorldModel


class LeRobotCriticPolicy:
    """Selects actions as a ``lerobot`` policy does, after the critic has checked each chunk.

    Call :meth:`select_action` once per model step, and execute each action for that long. At the end of a
    chunk, its outcome is reported to the critic, and the policy predicts the next one. After a veto the robot
    rests for one step, and the policy predicts again.

    Args:
        policy: A ``PreTrainedPolicy`` that implements ``predict_action_chunk`` and reads one observation.
        critic: The critic, with a goal or a hazard.
        model: The world model of the critic.
        postprocess: The postprocessor of the policy, which returns actions in the units of the robot. Their
            components are those of the model, in its order.
        steps: Steps of a chunk that are executed, at most the horizon of the model.
        samples: Number of chunks that the policy predicts for each verdict; more than one only helps if its
            chunks are drawn at random.

    Attributes:
        verdict: The newest verdict; None before the first.

    Raises:
        CriticError: The policy reads several observations at once, which ``predict_action_chunk`` alone does
            not record.
        ValueError: ``steps`` or ``samples`` is out of range.
    """

    def __init__(
        self,
        policy: Any,
        critic: Critic,
        model: WorldModel,
        *,
        postprocess: Callable[[Any], Any],
        steps: int,
        samples: int = 1,
    ) -> None:
        if not 1 <= steps <= model.manifest.horizon or samples < 1:
            raise ValueError(
                f"steps must be from 1 to {model.manifest.horizon} and samples at least 1, got {steps} and "
                f"{samples}"
            )
        observations = getattr(policy.config, "n_obs_steps", 1)
        if observations != 1:
            raise CriticError(
                f"{type(policy).__name__} reads {observations} observations at once, which "
                "predict_action_chunk alone does not record: use a policy with n_obs_steps=1, or call the "
                "critic with its chunks",
                code="critic.observation_history",
            )
        self._policy, self._critic, self._model = policy, critic, model
        self._postprocess, self._steps, self._samples = postprocess, steps, samples
        self._history = model.manifest.history_size
        self.reset()

    def reset(self) -> None:
        """Begin an episode. What the critic has learned is retained."""
        self._policy.reset()
        self.verdict: CriticVerdict | None = None
        self._latents: deque[Floats32] = deque(maxlen=self._history)
        self._executed: deque[Floats32] = deque(maxlen=self._history - 1)
        self._states: deque[Floats32] = deque(maxlen=self._history)
        self._observed: list[Floats32] = []
        self._queue: deque[Floats32] = deque()
        self._like: Any = None

    def select_action(
        self, batch: dict[str, Any], *, image: ImageLike, state: NDArray[np.floating] | None = None
    ) -> Any:
        """Return the action of this step in the units of the robot, a tensor [1, A]; do not postprocess it.

        Args:
            batch: The observation, after the preprocessor of the policy; a batch of one.
            image: The image that the world model reads, uint8 [h, w, 3] RGB.
            state: The measured state [S] of the robot at the image, in the names and units of ``io.state`` in
                the manifest; None if the world model reads none.

        Raises:
            CriticError: See :meth:`Critic.evaluate`.
            FrameError: The image cannot be used.
        """
        latent = self._model.encode(image)
        self._latents.append(latent)
        if state is None:
            self._states.clear()
        else:
            self._states.append(np.asarray(state, np.float32))
        if self.verdict is not None:
            self._observed.append(latent)
        if not self._queue:
            if self.verdict is not None and self.verdict.response is not Response.VETO:
                self._critic.observe(self.verdict, np.stack(self._observed))
            self._begin_chunk(batch)
        action = self._queue.popleft()
        self._executed.append(action)
        return self._like.new_tensor(action[None])

    def _begin_chunk(self, batch: dict[str, Any]) -> None:
        """Predict and check the next chunk."""
        chunks = []
        for _ in range(self._samples):
            predicted = self._policy.predict_action_chunk(batch)[:, : self._steps]
            if predicted.shape[0] != 1:
                raise CriticError(
                    f"the policy predicts {predicted.shape[0]} chunks for one observation: "
                    "give a batch of one",
                    code="critic.shape",
                )
            self._like = self._postprocess(predicted[0])
            chunks.append(np.asarray(self._like.detach().cpu(), np.float32))
        is_complete = len(self._latents) == self._history
        self.verdict = self._critic.evaluate(
            np.stack(chunks),
            latents=np.stack(self._latents) if is_complete else self._latents[-1],
            history_actions=np.stack(self._executed) if is_complete and self._history > 1 else None,
            history_states=self._state_history(is_complete),
        )
        is_veto = self.verdict.response is Response.VETO
        self._queue.extend(self.verdict.actions[:1] if is_veto else self.verdict.actions)
        self._observed = []

    def _state_history(self, is_complete: bool) -> Floats32 | None:
        """Return the states at the latents, the newest repeated if those are incomplete; None: unknown."""
        if not self._states:
            return None
        return np.stack(self._states if is_complete else [self._states[-1]] * self._history)
