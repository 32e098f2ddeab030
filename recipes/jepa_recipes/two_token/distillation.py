"""Distillation of two-token models: small networks learn the outputs of large ones.

They see neither positions nor the true consequences of actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.training.prefetch import in_order
from jepa_export.training.stage import ModuleStage
from jepa_recipes.two_token.dynamics import HORIZON
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, SCENE, Encoder, Energy, Predictor

LAYOUTS, ROLLOUTS, PAIRS = 32, 8, 64


class RepresentationDistillationStage(ModuleStage):
    """Training of the encoder: mean squared error between its latents and the teacher's, of the same frames.

    Args:
        draw: Submits the recording of the data of a step; only its frames are used.
    """

    name = "sight"

    def __init__(
        self, teacher: Encoder, student: Encoder, *, steps: int, draw: Callable[[int], Future[Recordings]]
    ) -> None:
        self.encoder = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__({"encoder": self.encoder}, steps=steps, learning_rate=3e-3, clip_norm=2.0)
        self._teacher, self._draw = teacher, draw
        self._batches: Iterator[Recordings] | None = None

    def losses(self, step: int) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = in_order(self._draw, step, self.steps)
        frames = torch.from_numpy(next(self._batches).frames).flatten(0, 2)
        with torch.no_grad():
            targets = self._teacher(frames)
        error = (self.encoder.train()(frames) - targets).pow(2).mean(dim=(0, 2))
        return {"scene": error[SCENE], "robot": error[ROBOT]}


class DynamicsDistillationStage(ModuleStage):
    """Training of predictor and energy.

    Mean squared error between their rollouts and the teacher's, and the relative absolute error between their
    temporal distances. Half of the action sequences are recorded, half are constant, as the planner proposes
    them.

    Args:
        teacher: Encoder, predictor and energy of the teacher.
        library: LatentLibrary of the teacher; rollouts begin at its robot tokens.
    """

    name = "imagination"

    def __init__(
        self,
        teacher: tuple[Encoder, Predictor, Energy],
        library: LatentLibrary,
        predictor: Predictor,
        energy: Energy,
        *,
        steps: int,
    ) -> None:
        self.predictor, self.energy = predictor, energy
        modules = {"predictor": predictor, "energy": energy}
        super().__init__(modules, steps=steps, learning_rate=2e-3, clip_norm=1.0)
        encoder, self._predictor, self._energy = teacher
        frames = library.first_frames
        with torch.no_grad():
            latents = torch.cat([encoder(chunk) for chunk in frames.flatten(0, 1).split(64)])
        # The scene tokens in the library are from before the temporal-distance stage.
        self._scenes = latents[:, SCENE].unflatten(0, frames.shape[:2])
        self._robots = library.latents[..., ROBOT, :].flatten(1, 2)
        self._actions = library.actions.flatten(0, 1)

    def losses(self, step: int) -> dict[str, Tensor]:
        layouts, runs = self._scenes.shape[:2]
        where = torch.randint(0, layouts, (LAYOUTS,))
        scene = self._scenes[where, torch.randint(0, runs, (LAYOUTS,))]
        here, there = torch.randint(0, self._robots.shape[1], (2, LAYOUTS, PAIRS))
        there[:, ::8] = here[:, ::8]
        robot, goal = self._robots[where[:, None], here], self._robots[where[:, None], there]
        return {
            "futures": 30.0 * self._rollouts(scene.repeat_interleave(ROLLOUTS, 0), robot[:, :ROLLOUTS]),
            "distance": self._distances(scene[:, None].expand_as(robot), robot, goal),
        }

    def _rollouts(self, scene: Tensor, robot: Tensor) -> Tensor:
        start = int(torch.randint(0, self._actions.shape[1] - HORIZON + 1, ()))
        chosen = torch.randint(0, len(self._actions), (len(scene),))
        actions = self._actions[chosen, start : start + HORIZON].clone()
        actions[::2] = actions[::2, :1]
        with torch.no_grad():
            targets = self._predictor.rollout(scene, robot.flatten(0, 1), actions)
        return functional.mse_loss(self.predictor.rollout(scene, robot.flatten(0, 1), actions), targets)

    def _distances(self, scene: Tensor, robot: Tensor, goal: Tensor) -> Tensor:
        with torch.no_grad():
            targets = self._energy.between(scene, robot, goal)
        error = (self.energy.between(scene, robot, goal) - targets).abs()
        return (error / (1 + 0.1 * targets)).mean()
