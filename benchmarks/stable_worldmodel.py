"""Goals reached under the evaluator of stable-worldmodel, with the floors that its published tables lack.

Environment, expert, evaluator, pairs of start and goal, budget and threshold are those of the package
(stable-worldmodel 0.1.1, TwoRoom-v1): an episode begins at a recorded state, its goal is the state ``offset``
steps later in the same recording, and it counts if the agent is within 16 of 224 pixels of the goal at any
step of the budget. The recordings are made here, with the package's expert and the noise of its own script.
Those of published results cannot be downloaded here, and published numbers are of other pairs.

Three sets of pairs:

    standard      offset 25, budget 50, as published
    other room    the same, only pairs whose start and goal are in different rooms
    offset 100    offset 100, budget 150

Drivers: no action (which shows the pairs that are solved at the start), random actions, straight to the goal
by true positions (which knows no wall), the expert of the package (true positions and the door), and bundles,
which see pixels only. A bundle is the cost model of the package's CEM: one of its actions is in force for
``BLOCK`` steps, and the plan is made again after ``--receding`` of them. The actions of all candidates and
those that are executed have a norm of at most the bundle's.

``jepa-export train stable_worldmodel`` trains a bundle on other recordings of the same kind. ``--pairs``,
``--seed`` and ``--data`` select others to tune the planner on.

Needs an environment of its own: pip install -r benchmarks/stable_worldmodel.txt, and this project. Exit
status 1 if no bundle reaches --goal of the pairs of each of the last two sets.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_recipes.training_worlds.stable_worldmodel import (
    BLOCK,
    ENVIRONMENT,
    NOISE,
    REPEAT,
    SIDE_PX,
    expert,
    package,
    record_expert,
)
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import cpu_info
from jepa_runtime.util import wilson, write_json

HERE = Path(__file__).resolve().parent
PACKAGES = ("stable-worldmodel", "torch", "openvino", "numpy")
WALL_PX, STEP_PX, REACHED_PX = 112.0, 5.0, 16.0
# The image of Two Rooms shows 4 m, and its actions are in force for 0.2 s.
TWO_ROOMS_UNIT = BLOCK * STEP_PX / SIDE_PX * 4.0 / 0.2
ITERATIONS, TOPK = 6, 8
_IMAGE = (SIDE_PX, SIDE_PX, 3)


@dataclass(frozen=True)
class Pairs:
    """A set of start and goal pairs.

    Attributes:
        offset: Steps of the recording between them.
        budget: Steps of an episode.
        other_room: Whether only pairs in different rooms count.
        has_goal: Whether the exit status depends on it.
    """

    offset: int
    budget: int
    other_room: bool
    has_goal: bool


SETS = {
    "standard": Pairs(25, 50, other_room=False, has_goal=False),
    "other room": Pairs(25, 50, other_room=True, has_goal=True),
    "offset 100": Pairs(100, 150, other_room=False, has_goal=True),
}


def judge() -> ModuleType:
    """Import the package, which has the name of this file.

    Raises:
        JepaExportError: It is not installed.
    """
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != HERE]
    own = sys.modules.pop("stable_worldmodel", None)
    try:
        return package()
    except JepaExportError:
        if own is not None:
            sys.modules["stable_worldmodel"] = own
        raise
    finally:
        sys.path[:] = path


@dataclass(frozen=True)
class Actions:
    """Actions of the environment, as a bundle takes them.

    Attributes:
        unit: Action of the bundle for one step at full speed, held for a block.
        max_norm: Largest norm of an action of the environment that the bundle is used for.
    """

    unit: float
    max_norm: float

    @classmethod
    def of(cls, bundle: Bundle) -> Actions:
        """Return those of a bundle of Two Rooms (velocities in m/s) or of TwoRoom."""
        described = bundle.manifest.io.action
        unit = TWO_ROOMS_UNIT if set(described.units) == {"m/s"} else 1.0
        return cls(unit, min(1.0, (described.max_norm or unit) / unit))

    def limited(self, steps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [..., 2] of the environment, shortened to the largest norm."""
        norm = np.linalg.norm(steps, axis=-1, keepdims=True)
        return np.asarray(steps * np.minimum(1.0, self.max_norm / np.maximum(norm, 1e-9)), np.float32)

    def of_blocks(self, candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [S, H, 2] of the bundle for candidates [S, H, 2 * BLOCK] of the package's CEM."""
        steps = candidates.reshape(*candidates.shape[:2], BLOCK, 2)
        return np.asarray(self.limited(steps).mean(axis=2) * self.unit, np.float32)

    def transform(self, actions: Any) -> Any:
        """Return ``actions``; the package calls this for actions that it reads."""
        return actions

    def inverse_transform(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is executed for ``actions`` of a plan."""
        return self.limited(actions)


class BundleCost:
    """The energy of the last predicted state to the goal, as the cost that the package's CEM minimizes."""

    def __init__(self, model: WorldModel, actions: Actions) -> None:
        self._model, self._actions = model, actions
        self._seen: tuple[bytes, bytes] | None = None
        self._latents: list[NDArray[np.float32]] = []

    def get_cost(self, info: dict[str, Any], candidates: Any) -> Any:
        """Return the costs [1, S] of the candidates [1, S, H, 2 * BLOCK]."""
        import torch

        # The same images for all iterations of a plan.
        shown = [np.asarray(info[key][0, 0]).reshape(-1, *_IMAGE)[-1] for key in ("pixels", "goal")]
        if (key := (shown[0].tobytes(), shown[1].tobytes())) != self._seen:
            self._seen = key
            self._latents = [self._model.encode(np.ascontiguousarray(each)) for each in shown]
        current, goal = self._latents
        actions = self._actions.of_blocks(candidates[0].numpy())
        futures = self._model.predict(actions, latents=current, goal=goal)
        assert futures.energies is not None
        return torch.from_numpy(np.array(futures.energies[None, :, -1], np.float32))


def choose(dataset: Any, pairs: Pairs, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return episodes and first steps of pairs, drawn as by the package's script: evenly over all rows."""
    lengths, state = np.asarray(dataset.lengths), np.asarray(dataset.get_col_data("state"))
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    possible = np.flatnonzero(step <= lengths[episode] - pairs.offset - 1)
    if pairs.other_room:
        sides = state[:, 0] > WALL_PX
        possible = possible[sides[possible] != sides[possible + pairs.offset]]
    if len(possible) < number:
        raise JepaRuntimeError(f"{len(possible)} pairs instead of {number}: record more (--recordings)")
    chosen = np.sort(np.random.default_rng(seed).choice(possible, number, replace=False))
    return episode[chosen], step[chosen]


def bundle_policy(swm: ModuleType, model: WorldModel, actions: Actions, horizon: int, receding: int) -> Any:
    """Return a policy that plans with a bundle by the package's CEM, and plans again after some blocks."""
    solver = swm.solver.CEMSolver(
        BundleCost(model, actions), num_samples=model.num_samples, n_steps=ITERATIONS, topk=TOPK, seed=42
    )
    plan = swm.PlanConfig(horizon=horizon, receding_horizon=receding, action_block=BLOCK, warm_start=True)
    return swm.policy.WorldModelPolicy(solver, plan, process={"action": actions})


def floors(swm: ModuleType, seed: int) -> dict[str, Callable[[], Any]]:
    """Return functions that create the policies without a model, by name."""

    class Fixed(swm.policy.BasePolicy):  # type: ignore[misc, name-defined]
        """Act by true positions."""

        def __init__(self, straight: bool) -> None:
            super().__init__()
            self._straight = straight

        def get_action(self, obs: Any, **_: Any) -> NDArray[np.float32]:
            """Return the actions of all environments."""
            shape = self.env.action_space.shape
            if not self._straight:
                return np.zeros(shape, np.float32)
            ahead = (np.asarray(obs["goal_state"]) - np.asarray(obs["state"])).reshape(shape) / STEP_PX
            length = np.linalg.norm(ahead, axis=-1, keepdims=True)
            return np.asarray(ahead / np.maximum(length, 1.0), np.float32)

    return {
        "no action": lambda: Fixed(straight=False),
        "random": lambda: swm.policy.RandomPolicy(seed=seed),
        "straight line": lambda: Fixed(straight=True),
        "expert": lambda: expert(swm, seed=seed),
    }


def evaluate(
    swm: ModuleType, dataset: Any, pairs: Pairs, policy: Any, number: int, seed: int
) -> NDArray[np.bool_]:
    """Return which pairs the policy reaches, by the package's evaluator."""
    episodes, steps = choose(dataset, pairs, number, seed)
    world = swm.World(ENVIRONMENT, number, image_shape=_IMAGE[:2], max_episode_steps=2 * pairs.budget)
    try:
        world.set_policy(policy)
        # The CEM prints the duration of each plan.
        with redirect_stdout(io.StringIO()):
            result = world.evaluate(
                dataset=dataset,
                episodes_idx=episodes.tolist(),
                start_steps=steps.tolist(),
                goal_offset=pairs.offset,
                eval_budget=pairs.budget,
                callables=[
                    {"method": "_set_state", "args": {"state": {"value": "state"}}},
                    {"method": "_set_goal_state", "args": {"goal_state": {"value": "goal_state"}}},
                ],
            )
    finally:
        world.close()
    return np.asarray(result["episode_successes"], bool)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaExportError: The package is not installed.
        JepaRuntimeError: A bundle cannot be opened, or there are too few pairs.
    """
    swm = judge()
    dataset = record_expert(arguments.data, arguments.recordings, arguments.seed)
    drivers, models = floors(swm, arguments.seed), {}
    with ExitStack() as opened:
        for path in arguments.bundle:
            bundle = Bundle.open(path)
            model = opened.enter_context(WorldModel.open(bundle))
            name = f"{bundle.manifest.model_id} {bundle.manifest.version}"
            models[name] = {
                "precision": model.precision,
                "samples": model.num_samples,
                "sha256": bundle.sha256,
            }
            drivers[name] = partial(
                bundle_policy, swm, model, Actions.of(bundle), arguments.horizon, arguments.receding
            )
        rows = [
            row(swm, dataset, label, name, make(), arguments)
            for label in SETS
            for name, make in drivers.items()
        ]
    return {
        "environment": ENVIRONMENT,
        "pairs": {label: asdict(pairs) for label, pairs in SETS.items()},
        "recordings": {"episodes": arguments.recordings, "noise": NOISE, "repeat": REPEAT},
        "planner": {
            "block": BLOCK,
            "horizon": arguments.horizon,
            "receding": arguments.receding,
            "iterations": ITERATIONS,
            "topk": TOPK,
        },
        "models": models,
        "seed": arguments.seed,
        "machine": {"cpu": cpu_info(), "versions": {name: version(name) for name in PACKAGES}},
        "rows": rows,
    }


def row(
    swm: ModuleType, dataset: Any, label: str, driver: str, policy: Any, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return the result of a driver on a set of pairs, and print it."""
    began_s = time.monotonic()
    reached = evaluate(swm, dataset, SETS[label], policy, arguments.pairs, arguments.seed)
    took_s = time.monotonic() - began_s
    low, high = wilson(int(reached.sum()), len(reached))
    print(f"{label:<12} {driver:<20} {reached.mean():6.1%} ({low:.1%} to {high:.1%}) in {took_s:.0f} s")
    return {
        "pairs": label,
        "driver": driver,
        "episodes": len(reached),
        "reached": int(reached.sum()),
        "rate": float(reached.mean()),
        "interval": [low, high],
        "took_s": round(took_s, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report, and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = measure(arguments)
    except (JepaExportError, JepaRuntimeError) as error:
        print(f"stable_worldmodel: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    of_models = [row for row in report["rows"] if row["driver"] in report["models"]]
    best = {
        label: max(row["rate"] for row in of_models if row["pairs"] == label)
        for label, pairs in SETS.items()
        if pairs.has_goal
    }
    missed = [label for label, rate in best.items() if rate < arguments.goal]
    for label in missed:
        print(f"{label}: {best[label]:.1%} is below the goal of {arguments.goal:.0%}")
    return bool(missed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle", type=Path, nargs="+", default=[HERE.parent / "models" / "two_rooms"], metavar="BUNDLE"
    )
    parser.add_argument("--pairs", type=count, default=50, help="of each set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--horizon", type=count, default=3, help="blocks of a plan (default: %(default)s)")
    parser.add_argument(
        "--receding", type=count, default=2, help="blocks of a plan to execute (default: %(default)s)"
    )
    parser.add_argument(
        "--recordings", type=count, default=400, help="recorded episodes (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, default=HERE.parent / "out" / "stable_worldmodel")
    parser.add_argument("--goal", type=float, default=0.95, help="success rate (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "stable_worldmodel.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
