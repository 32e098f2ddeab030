"""Distillation in Two Rooms: small networks learn what large ones give. Nothing else is told to them, neither
positions nor what truly came of an action."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.students.two_rooms_networks import ROBOT, SCENE, Encoder, Energy, Predictor
from jepa_export.training.dynamics import HORIZON
from jepa_export.training.latent_library import Library
from jepa_export.training.prefetch import in_order
from jepa_export.training.stage import Stage

LAYOUTS, ROLLOUTS, PAIRS = 32, 8, 64


class RepresentationDistillationStage(Stage):
    """The encoder: mean squared error between its latents and the teacher's, of the same frames.

    Args:
        draw: begins to record what a step shows; of it the frames alone are used.
    """

    name = "sight"

    def __init__(
        self, teacher: Encoder, student: Encoder, *, steps: int, draw: Callable[[int], Future[Recordings]]
    ) -> None:
        self.encoder = student.to(memory_format=torch.channels_last)
        super().__init__({"encoder": self.encoder}, steps=steps, learning_rate=3e-3, clip_norm=2.0)
        self._teacher, self._draw = teacher, draw
        self._batches: Iterator[Recordings] | None = None

    def losses(self, step: int) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = in_order(self._draw, step, self.steps)
        frames = torch.from_numpy(next(self._batches).frames).flatten(0, 2)
        with torch.no_grad():
            wanted = self._teacher(frames)
        error = (self.encoder.train()(frames) - wanted).pow(2).mean(dim=(0, 2))
        return {"scene": error[SCENE], "robot": error[ROBOT]}


class DynamicsDistillationStage(Stage):
    """Predictor and energy: mean squared error between their rollouts and the teacher's, and the relative
    absolute error between the steps that both count. Half of the actions are recorded ones, half are held
    throughout, as the planner proposes them.

    Args:
        teacher: its encoder, predictor and energy.
        library: of the teacher; its robot tokens are where rollouts begin.
    """

    name = "imagination"

    def __init__(
        self,
        teacher: tuple[Encoder, Predictor, Energy],
        library: Library,
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
        # Of the library, scenes are those from before the grounding.
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
            wanted = self._predictor.rollout(scene, robot.flatten(0, 1), actions)
        return functional.mse_loss(self.predictor.rollout(scene, robot.flatten(0, 1), actions), wanted)

    def _distances(self, scene: Tensor, robot: Tensor, goal: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._energy.between(scene, robot, goal)
        error = (self.energy.between(scene, robot, goal) - wanted).abs()
        return (error / (1 + 0.1 * wanted)).mean()
