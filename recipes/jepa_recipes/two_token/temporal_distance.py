"""Stage 3: scene head, predictor and energy learn together from the consequences of actions.

Contrast alone gives a scene token that distinguishes layouts but locates the door only to about a tenth of a
meter; a robot that plans with it presses against the wall next to the door. Here the scene token is computed
from live frames and must explain where the robot arrives (prediction over the whole horizon) and how long
paths take (the energy), which depends on the door. Robot tokens stay as they are: trunk and robot head are
frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.training.stage import ModuleStage
from jepa_recipes.two_token.dynamics import HORIZON
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, Encoder, Energy, Predictor

LAYOUTS, ROLLOUTS, PAIRS, DRAWS = 64, 4, 32, 8
FARTHEST = 60.0


class TemporalDistanceStage(ModuleStage):
    """Training on the squared error of rollouts and on temporal distances.

    The second term is the relative absolute error between the energy and the number of steps in ``distances``
    (float16 [L, N, N]), the shortest paths on the graph of imagined transitions.
    """

    name = "grounding"

    def __init__(
        self,
        library: LatentLibrary,
        distances: Tensor,
        encoder: Encoder,
        predictor: Predictor,
        energy: Energy,
        *,
        steps: int,
    ) -> None:
        self.encoder, self.predictor, self.energy = encoder, predictor, energy
        modules = {"scene": encoder.scene, "predictor": predictor, "energy": self.energy}
        super().__init__(modules, steps=steps, learning_rate=1e-3, clip_norm=1.0)
        self._library, self._distances = library, distances
        self._robots = library.latents[..., ROBOT, :].contiguous()
        frames = library.first_frames
        with torch.no_grad():
            seen = torch.cat([encoder.features(chunk) for chunk in frames.flatten(0, 1).split(64)])
        self._seen = seen.unflatten(0, frames.shape[:2])

    def losses(self, step: int) -> dict[str, Tensor]:
        layouts, runs = self._robots.shape[:2]
        where = torch.randint(0, layouts, (LAYOUTS,))
        features = self._seen[where, torch.randint(0, runs, (LAYOUTS,))]
        # Evaluation mode: the batch statistics stay those of the previous stages, and frames do not affect
        # each other.
        scene = self.encoder.scene.eval()(features)
        return {
            "prediction": 30.0 * self._prediction(where, scene.repeat_interleave(ROLLOUTS, 0)),
            "distance": self._distance(where, scene.repeat_interleave(PAIRS, 0)),
        }

    def _prediction(self, where: Tensor, scene: Tensor) -> Tensor:
        where = where.repeat_interleave(ROLLOUTS)
        run = torch.randint(0, self._robots.shape[1], where.shape)
        start = int(torch.randint(0, self._robots.shape[2] - HORIZON, ()))
        robots = self._robots[where, run, start : start + HORIZON + 1]
        actions = self._library.actions[where, run, start : start + HORIZON]
        return functional.mse_loss(self.predictor.rollout(scene, robots[:, 0], actions), robots[:, 1:])

    def _distance(self, where: Tensor, scene: Tensor) -> Tensor:
        where = where.repeat_interleave(PAIRS)
        nodes = self._robots.flatten(1, 2)
        here, there = ends(where, nodes, self._distances)
        target = self._distances[where, here, there].float()
        known = target < FARTHEST
        target = torch.where(known, target, 0.0)
        error = (self.energy.between(scene, nodes[where, here], nodes[where, there]) - target).abs()
        return (error / (1 + 0.1 * target) * known).sum() / known.sum().clamp(min=1)


def ends(where: Tensor, nodes: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices [P] into ``nodes`` [L, N, D] at which paths in layouts ``where`` [P] begin and end.

    Uniform sampling rarely draws the pairs at which a robot fails: it presses against the wall in front of
    its goal, and stops next to it. Each group of eight ends is therefore drawn from :data:`DRAWS` candidates:
    four have the longest path (``distances`` [L, N, N], steps) relative to their straight distance, two are
    the nearest, one equals the beginning, and one is random.
    """
    here = torch.randint(0, nodes.shape[1], where.shape)
    drawn = torch.randint(0, nodes.shape[1], (DRAWS, len(where)))
    apart = (nodes[where, here] - nodes[where, drawn]).norm(dim=-1)
    path_steps = distances[where, here, drawn].float()
    longer = torch.where(path_steps < FARTHEST, path_steps, 0.0) / (1 + apart)
    chosen = torch.zeros_like(here)
    chosen[1::2], chosen[2::4] = longer.argmax(0)[1::2], apart.argmin(0)[2::4]
    there = drawn.gather(0, chosen[None])[0]
    there[::8] = here[::8]
    return here, there
