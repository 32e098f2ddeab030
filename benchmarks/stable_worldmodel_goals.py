"""Goals reached under the evaluator of stable-worldmodel, with the baselines that its published tables lack.

Environment, evaluator, pairs of start and goal, budget and threshold are those of the package
(stable-worldmodel 0.1.1): an episode begins at a recorded state, its goal is the state ``offset`` steps later
in the same recording, and it counts if the goal is reached at any step of the budget. The recordings are made
here, with a policy of the package. Those of published results cannot be downloaded here, and published
numbers are of other pairs. Recording k begins as ``--seed`` + k says: the default is far from the seeds of
training. ``benchmarks/stable_worldmodel_environments`` describes the environments.

Drivers: no action (which shows the pairs that are solved at the start), random actions, policies by true
states, and bundles, which see pixels only. A bundle is the cost model of the package's CEM: one of its
actions is in force for several steps, and the plan is made again after ``--receding`` of them. The actions of
all candidates and those that are executed are within the bundle's limits.

``jepa-export train stable_worldmodel`` trains a bundle on other recordings of the same kind. ``--pairs``,
``--seed`` and ``--data`` select others to tune the planner on.

Needs an environment of its own: pip install -r benchmarks/stable_worldmodel.txt, and this project. Exit
status 1 if no bundle reaches --goal of the pairs of each required set.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_worldmodel_environments.environment import Environment, Pairs
from stable_worldmodel_environments.planning import bundle_policy
from stable_worldmodel_environments.reacher import REACHER
from stable_worldmodel_environments.two_room import TWO_ROOM

from jepa_export.errors import JepaExportError
from jepa_recipes.stable_worldmodel.recordings import SIDE_PX, package, record
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import cpu_info
from jepa_runtime.util import wilson, write_json

HERE = Path(__file__).resolve().parent
PACKAGES = ("stable-worldmodel", "torch", "openvino", "numpy")
ENVIRONMENTS = {"two_room": TWO_ROOM, "reacher": REACHER}


def common_baselines(swm: ModuleType, seed: int) -> dict[str, Callable[[], Any]]:
    """Return functions that create the policies that every environment has, by name."""

    class NoAction(swm.policy.BasePolicy):  # type: ignore[misc, name-defined]
        """Do nothing."""

        def get_action(self, obs: Any, **_: Any) -> NDArray[np.float32]:
            """Return the actions of all environments."""
            del obs
            return np.zeros(self.env.action_space.shape, np.float32)

    return {"no action": NoAction, "random": lambda: swm.policy.RandomPolicy(seed=seed)}


def evaluate(
    swm: ModuleType, environment: Environment, dataset: Any, pairs: Pairs, policy: Any, number: int, seed: int
) -> NDArray[np.bool_]:
    """Return which pairs the policy reaches, by the package's evaluator."""
    episodes, steps = environment.choose(dataset, pairs, number, seed)
    source = environment.source
    world = swm.World(
        source.environment,
        number,
        image_shape=(SIDE_PX, SIDE_PX),
        max_episode_steps=2 * pairs.budget,
        **source.settings,
    )
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
                callables=environment.start,
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
    swm = package()
    environment = ENVIRONMENTS[arguments.environment]
    recordings = arguments.recordings or environment.recordings
    dataset = record(arguments.data, environment.source, recordings, arguments.seed)
    planner = replace(
        environment.planner,
        horizon=arguments.horizon or environment.planner.horizon,
        receding=arguments.receding or environment.planner.receding,
    )
    drivers = common_baselines(swm, arguments.seed) | environment.baselines(swm, arguments.seed)
    models: dict[str, Any] = {}
    with ExitStack() as opened:
        for path in arguments.bundle:
            bundle = Bundle.open(path)
            model = opened.enter_context(WorldModel.open(bundle))
            actions = environment.actions(bundle)
            name = f"{bundle.manifest.model_id} {bundle.manifest.version}"
            if name in drivers:
                raise JepaRuntimeError(f"{path}: is a second {name}: give bundles of different versions")
            models[name] = {
                "precision": model.precision,
                "samples": model.num_samples,
                "sha256": bundle.sha256,
            }
            drivers[name] = partial(bundle_policy, swm, model, actions, planner)
        rows = [
            row(swm, environment, dataset, label, name, make(), arguments)
            for label in environment.sets
            for name, make in drivers.items()
        ]
    return {
        "environment": environment.source.environment,
        "pairs": {
            label: {"offset": pairs.offset, "budget": pairs.budget}
            for label, pairs in environment.sets.items()
        },
        "recordings": {"episodes": recordings, "with": environment.recorded_with},
        "planner": asdict(planner) | {"block": environment.block},
        "models": models,
        "seed": arguments.seed,
        "machine": {"cpu": cpu_info(), "versions": {name: version(name) for name in PACKAGES}},
        "rows": rows,
    }


def row(
    swm: ModuleType,
    environment: Environment,
    dataset: Any,
    label: str,
    driver: str,
    policy: Any,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return the result of a driver on a set of pairs, and print it."""
    began_s = time.monotonic()
    reached = evaluate(
        swm, environment, dataset, environment.sets[label], policy, arguments.pairs, arguments.seed
    )
    took_s = time.monotonic() - began_s
    low, high = wilson(int(reached.sum()), len(reached))
    print(
        f"{label:<12} {driver:<20} {reached.mean():6.1%} ({low:.1%} to {high:.1%}) in {took_s:.0f} s",
        flush=True,
    )
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
        print(f"stable_worldmodel_goals: {error}", file=sys.stderr)
        return 2
    results = HERE / "results" / f"stable_worldmodel_{arguments.environment}.json"
    write_json(arguments.json or results, report)
    environment = ENVIRONMENTS[arguments.environment]
    goal = environment.required_rate if arguments.goal is None else arguments.goal
    of_models = [row for row in report["rows"] if row["driver"] in report["models"]]
    best = {
        label: max(row["rate"] for row in of_models if row["pairs"] == label)
        for label, pairs in environment.sets.items()
        if pairs.required
    }
    missed = [label for label, rate in best.items() if rate < goal]
    for label in missed:
        print(f"{label}: {best[label]:.1%} is below the goal of {goal:.0%}")
    return bool(missed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--environment", choices=ENVIRONMENTS, default="two_room", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--bundle", type=Path, nargs="+", required=True, metavar="BUNDLE", help="bundles to evaluate"
    )
    parser.add_argument("--pairs", type=count, default=50, help="of each set (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=100_000, help="of recordings and pairs (default: %(default)s)"
    )
    parser.add_argument("--horizon", type=count, help="actions of a plan (default: the environment's)")
    parser.add_argument(
        "--receding", type=count, help="actions of a plan to execute (default: the environment's)"
    )
    parser.add_argument("--recordings", type=count, help="recorded episodes (default: the environment's)")
    parser.add_argument("--data", type=Path, default=HERE.parent / "out" / "stable_worldmodel")
    parser.add_argument("--goal", type=float, help="success rate (default: the environment's)")
    parser.add_argument("--json", type=Path, help="report (default: results/stable_worldmodel_<...>.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
