"""Success against milliseconds of the registered searches in Two Rooms.

Each search drives with the controller of the planner node, in simulated time, with one image per model step
and a full plan of ``--iterations`` iterations for it. It compares candidates by the bundle's own energy, the
temporal distance around walls, or by the mean squared difference of latents, which falls towards walls too.
The policy of policy_cem is behavior cloning from latents (benchmarks/critic.py), which also drives alone.
Floors are random actions, a straight line, and an expert by true state. All have the same episodes.

An episode counts if the model's energy says "reached" and the robot is truly there; drivers without a model
stop by the true distance. Settings are the defaults, chosen on other seeds (10).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from critic import CLONING, KNOWING, Cloning, Policy
from numpy.typing import NDArray
from peers.files import result_file

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import count
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning import find_search
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.episodes import Driver, baselines, episode_seeds, model_driver, run_episode
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
SEARCHES = ("cem", "mppi", "refined_cem", "policy_cem", "hierarchical_cem")
ENERGIES = {"bundle": None, "mean_squared": "mean_squared"}
PROPOSALS = 16
EXPERT = "expert"


def policy_driver(model: WorldModel, policy: Policy) -> Driver:
    """Return a policy that executes the first action of each chunk and stops by the true distance."""

    def begin(world: TwoRooms, seed: int) -> Any:
        rng, goal = np.random.default_rng((seed, 2)), model.encode(world.render_goal()).astype(np.float64)

        def decide(image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
            if world.reached():
                return None
            return policy(world, model.encode(image).astype(np.float64), goal, 1, rng)[0, 0]

        return decide

    return Driver(begin)


def drivers_of(
    model: WorldModel, world: TwoRooms, cloning: Cloning, arguments: argparse.Namespace
) -> dict[tuple[str, str], Driver]:
    """Return all drivers by planner and energy."""
    rng = np.random.default_rng(0)

    def propose(latent: NDArray[np.float32], goal: NDArray[np.float32]) -> NDArray[np.float32]:
        chunks = cloning(world, latent.astype(np.float64), goal.astype(np.float64), PROPOSALS, rng)
        return chunks.astype(np.float32)

    found = {(name, "-"): driver for name, driver in baselines(world).items()}
    found[EXPERT, "-"] = policy_driver(model, KNOWING["expert"])
    found[CLONING, "-"] = policy_driver(model, cloning)
    for energy, function in ENERGIES.items():
        for name in arguments.planner:
            config = ControllerConfig(
                search=find_search(name).config(), energy=function, images_per_step=1, reached_after=1,
                extra_iterations=arguments.iterations,
            )  # fmt: skip
            found[name, energy] = model_driver(model, config, world.task, propose=propose)
    return found


def row_of(name: str, energy: str, driver: Driver, world: TwoRooms, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the row of a driver."""
    episodes = [run_episode(world, driver, seed=seed, step_s=0.2) for seed in seeds]
    times = np.concatenate([episode.plan_ms for episode in episodes])
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "planner": name,
        "energy": energy,
        **asdict(Goals.of(episodes)),
        "decision_ms": {"p50": float(p50), "p99": float(p99), "n": len(times)},
    }


def line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of text."""
    low, high = row["interval"]
    times = row["decision_ms"]
    return (
        f"{row['planner']:<18} {row['energy']:<13} {row['successes']:>4}/{row['episodes']:<4} "
        f"{row['rate']:6.1%} [{low:.1%}, {high:.1%}]  decision p50 {times['p50']:.1f} ms, "
        f"p99 {times['p99']:.1f} ms"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    began, rows = time.monotonic(), []
    machine = {"cpu": cpu_info(), "versions": package_versions(), "load_average": os.getloadavg()[0]}
    try:
        with WorldModel.open(arguments.bundle, options=BackendOptions(threads=1)) as model:
            manifest, world = model.manifest, TwoRooms(seed=0)
            report = {
                "model": f"{manifest.model_id} {manifest.version}",
                "sha256": model.bundle.sha256,
                "engine": f"{model.engine}:{model.device}",
                "precision": model.precision,
                "threads": 1,
                "seeds": arguments.seed,
                "iterations": arguments.iterations,
                "demonstrations": arguments.demonstrations,
                "searches": {
                    name: {"source": find_search(name).source, "config": asdict(find_search(name).config())}
                    for name in arguments.planner
                },
                "machine": machine,
            }
            cloning = Cloning(model, arguments.demonstrations)
            seeds = episode_seeds(arguments.seed, arguments.episodes)
            for (name, energy), driver in drivers_of(model, world, cloning, arguments).items():
                rows.append(row_of(name, energy, driver, world, seeds))
                print(line(rows[-1]), flush=True)
                # After each row, so that an interrupted run has those that are complete.
                duration_s = round(time.monotonic() - began)
                write_json(arguments.json, report | {"duration_s": duration_s, "rows": rows})
    except JepaRuntimeError as error:
        print(f"planners: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--episodes", type=count, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0], metavar="S")
    parser.add_argument(
        "--iterations", type=count, default=6, help="iterations of a plan (default: %(default)s)"
    )
    parser.add_argument(
        "--demonstrations",
        type=count,
        default=200,
        help="episodes from which behavior cloning learns (default: %(default)s)",
    )
    parser.add_argument(
        "--planner", nargs="+", choices=SEARCHES, default=list(SEARCHES), metavar="NAME", help="searches"
    )
    parser.add_argument("--json", type=Path, default=result_file("planners"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
