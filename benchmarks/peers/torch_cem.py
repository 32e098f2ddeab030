"""A typical planner in plain PyTorch: CEM with one Python loop over iterations and one over the horizon.

It has the fp32 networks of a bundle of Two Rooms and the same settings, and makes one full plan per model
step. It has neither safety checks nor a check for progress.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from jepa_recipes.two_token.networks import ROBOT, SCENE, Encoder, Energy, Predictor
from jepa_runtime.bundle import Bundle, Manifest
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import BundleError
from jepa_runtime.planning import CEMConfig
from jepa_sim.closed_loop.episodes import Policy
from jepa_sim.worlds.interface import Image, World

# Of the bundle's golden outputs, which other kernels computed.
_TOLERANCE = 1e-3


class TorchCEM:
    """Begins episodes for a :class:`jepa_sim.closed_loop.episodes.Driver`.

    Args:
        bundle: Bundle of Two Rooms with an fp32 variant.
        config: Settings; the search must be CEM.
        threads: Threads of PyTorch.

    Raises:
        BundleError: The networks with its weights do not reproduce its golden outputs.
    """

    def __init__(self, bundle: Bundle, config: ControllerConfig, *, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._manifest, self._config = bundle.manifest, config
        self._encoder = loaded(Encoder(), _graph(bundle, "encoder"))
        self._predictor = loaded(Predictor(), _graph(bundle, "predictor"))
        self._energy = loaded(Energy(), _graph(bundle, "energy"))
        self._check(bundle)

    def __call__(self, world: World, seed: int) -> Policy:
        goal = self._encode(world.render_goal())
        search = _Search(self._config.search, self._manifest, seed)

        @torch.inference_mode()
        def decide(frame: Image) -> np.ndarray | None:
            latent = self._encode(frame)
            if float(self._energy(latent, goal)) <= self._manifest.goal_threshold:
                return None
            for _ in range(self._config.iterations_per_step):
                candidates = search.draw()
                search.refit(candidates, self._costs(latent, goal, candidates))
            return search.next_action().numpy()

        return decide

    def _costs(self, latent: Tensor, goal: Tensor, candidates: Tensor) -> Tensor:
        """Return the energies [K] summed over the steps."""
        scene = latent[:, SCENE].expand(len(candidates), -1)
        robot = latent[:, ROBOT].expand(len(candidates), -1)
        costs = torch.zeros(len(candidates))
        for step in range(candidates.shape[1]):
            robot = self._predictor.rollout(scene, robot, candidates[:, step : step + 1])[:, 0]
            costs += self._energy(torch.stack([scene, robot], dim=1), goal)
        return costs

    @torch.inference_mode()
    def _encode(self, frame: Image) -> Tensor:
        latent: Tensor = self._encoder(torch.from_numpy(frame)[None])
        return latent

    @torch.inference_mode()
    def _check(self, bundle: Bundle) -> None:
        golden = bundle.golden()
        latents = self._encoder(torch.tensor(golden.frames))
        futures = self._predictor(latents[:1, None], torch.tensor(golden.actions))
        energy = self._energy(latents, torch.tensor(golden.goal))
        for name, actual, expected in (
            ("latents", latents, golden.latents),
            ("futures", futures, golden.futures[0]),
            ("energy", energy, golden.energy),
        ):
            error = float(np.abs(actual.numpy() - expected).max())
            if not error <= _TOLERANCE:
                raise BundleError(
                    f"{bundle.path}: the {name} of PyTorch differ by {error:.3g} from the golden outputs",
                    code="bundle.golden_mismatch",
                )


class _Search:
    """The search distribution."""

    def __init__(self, config: CEMConfig, manifest: Manifest, seed: int) -> None:
        self._config, action = config, manifest.io.action
        self._low, self._high = torch.tensor(action.low), torch.tensor(action.high)
        self._max_norm, self._scale = action.max_norm, (self._high - self._low) / 2
        self._generator = torch.Generator().manual_seed(seed)
        self._mean = torch.zeros(config.horizon, len(action.low))
        self._std = (config.init_std * self._scale).expand_as(self._mean)

    def draw(self) -> Tensor:
        """Return candidates [K, H, A] within the limits; the first one is the plan itself."""
        config = self._config
        noise = torch.randn(config.num_samples, *self._mean.shape, generator=self._generator)
        held = round(config.num_samples * config.constant_fraction)
        candidates = self._mean + noise * self._std
        candidates[config.num_samples - held :] = noise[-held:, :1] * config.init_std * self._scale
        candidates[0] = self._mean
        candidates = candidates.clamp(self._low, self._high)
        if self._max_norm is not None:
            norms = candidates.norm(dim=-1, keepdim=True).clamp(min=1e-9)
            candidates *= (self._max_norm / norms).clamp(max=1)
        return candidates

    def refit(self, candidates: Tensor, costs: Tensor) -> None:
        """Fit mean and spread to the candidates of lowest cost."""
        elites = candidates[costs.topk(self._config.topk, largest=False).indices]
        self._mean = elites.mean(dim=0)
        self._std = torch.maximum(elites.std(dim=0, correction=0), self._config.min_std * self._scale)

    def next_action(self) -> Tensor:
        """Return the first action of the plan; the next plan starts from the rest."""
        first = self._mean[0]
        self._mean = torch.cat([self._mean[1:], self._mean[-1:]])
        self._std = (self._config.init_std / 2 * self._scale).expand_as(self._mean)
        return first


def loaded(module: nn.Module, path: Path) -> nn.Module:
    """Return the module with the weights of the ONNX file at ``path``.

    Weights are assigned by name and, where the exporter folded or renamed one, in the order of use.
    """
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used: dict[str, Tensor] = {}
    for node in graph.node:
        for name in node.input:
            if name in constants:
                value = constants[name].T if node.op_type == "MatMul" else constants[name]
                used.setdefault(name, torch.from_numpy(value.copy()))
    initial = module.state_dict()
    others = [name for name in initial if name not in used and not name.endswith("num_batches_tracked")]
    unnamed = [value for name, value in used.items() if name not in initial]
    loaded_weights = {name: used[name] for name in initial if name in used}
    loaded_weights |= {
        name: value.reshape(initial[name].shape) for name, value in zip(others, unnamed, strict=True)
    }
    module.load_state_dict(initial | loaded_weights)
    return module.eval()


def _graph(bundle: Bundle, role: str) -> Path:
    variants = getattr(bundle.manifest.graphs, role)
    path = next((each.path for each in variants if each.target == "onnx"), None)
    if path is None:
        raise BundleError(
            f"{bundle.path}: no {role} as ONNX to load weights from", code="bundle.no_onnx_graph"
        )
    return bundle.path / path
