"""Predictors on the same encoder and energy, in Two Rooms: success, errors, and duration of the rollouts.

A predictor of one step is applied to its own predictions; a predictor of action prefixes (Fast-LeWM,
arXiv:2606.26217) returns all steps in one call. `jepa-export train two_rooms --predictor-of` trains both.

All bundles have the same held-out episodes and the search ``cem`` with the bundle's energy, one image per
model step and ``--iterations`` iterations for it; the bundles take turns within each episode. An episode
counts if the model's energy says "reached" and the robot is truly there. Rollouts are those of all candidates
over the whole horizon, also in turns. Errors are those of the bundles' reports, on held-out layouts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peers.files import result_file

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import count
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning import find_search
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.episodes import Episode, episode_seeds, model_driver, run_episode
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
SEARCH = "cem"
STEP_S = 0.2


def check_comparable(models: Sequence[WorldModel]) -> None:
    """Check that the models differ in their predictor only.

    Raises:
        JepaRuntimeError: They do not.
    """
    size = models[0].manifest.io.frame
    frame = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)

    def common(model: WorldModel) -> tuple[object, ...]:
        if model.manifest.io.frame != size:
            return (model.manifest.io.frame,)
        latent = model.encode(frame)
        energy = model.energy(latent[None] + 1, latent)
        return model.num_samples, model.manifest.horizon, latent.tobytes(), energy.tobytes()

    expected = common(models[0])
    for model in models[1:]:
        if common(model) != expected:
            raise JepaRuntimeError(
                f"{model.bundle.path}: has another encoder, energy, horizon or number of candidates than "
                f"{models[0].bundle.path}: give bundles that differ in their predictor only"
            )


def rollout_ms(models: Sequence[WorldModel], repeats: int) -> list[list[float]]:
    """Return durations of predicting all candidates over the whole horizon, in turns."""
    rng, found = np.random.default_rng(0), [[] for _ in models]
    manifest = models[0].manifest
    actions = rng.uniform(-1, 1, (models[0].num_samples, manifest.horizon, manifest.action_size))
    latent = manifest.io.latent
    latents = rng.normal(size=(latent.tokens, latent.dim)).astype(np.float32)
    for _ in range(repeats):
        for durations, model in zip(found, models, strict=True):
            model.predict(actions, latents=latents)
            durations.append(model.timings["predict"])
    return found


def drive(models: Sequence[WorldModel], seeds: Sequence[int], iterations: int) -> list[list[Episode]]:
    """Return the episodes of each model."""
    world = TwoRooms(seed=0)
    config = ControllerConfig(
        search=find_search(SEARCH).config(), images_per_step=1, reached_after=1, extra_iterations=iterations
    )
    drivers = [model_driver(model, config, world.task) for model in models]
    found: list[list[Episode]] = [[] for _ in models]
    for seed in seeds:
        for episodes, driver in zip(found, drivers, strict=True):
            episodes.append(run_episode(world, driver, seed=seed, step_s=STEP_S))
    return found


def row_of(model: WorldModel, episodes: Sequence[Episode], durations: Sequence[float]) -> dict[str, Any]:
    """Return the row of a bundle."""
    report = model.bundle.report() or {}
    decisions = np.concatenate([episode.plan_ms for episode in episodes])
    return {
        "model": f"{model.manifest.model_id} {model.manifest.version}",
        "sha256": model.bundle.sha256,
        "precision": model.precision,
        **asdict(Goals.of(list(episodes))),
        "error_m": report.get("open_loop", {}).get("error_m"),
        "multiply_adds": report.get("multiply_adds", {}).get("predictor"),
        "rollout_ms": _percentiles(np.asarray(durations)),
        "decision_ms": _percentiles(decisions),
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "n": len(values)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        with ExitStack() as opened:
            options = BackendOptions(threads=1)
            models = [
                opened.enter_context(WorldModel.open(path, options=options)) for path in arguments.bundle
            ]
            check_comparable(models)
            durations = rollout_ms(models, arguments.repeats)
            seeds = episode_seeds(arguments.seed, arguments.episodes)
            rows = [
                row_of(model, *each)
                for model, *each in zip(
                    models, drive(models, seeds, arguments.iterations), durations, strict=True
                )
            ]
            candidates, horizon = models[0].num_samples, models[0].manifest.horizon
    except JepaRuntimeError as error:
        print(f"predictors: {error}", file=sys.stderr)
        return 2
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['model']:<28} {row['successes']}/{row['episodes']} [{low:.1%}, {high:.1%}], rollouts p50 "
            f"{row['rollout_ms']['p50']:.2f} ms, decision p50 {row['decision_ms']['p50']:.1f} ms"
        )
    report = {
        "search": SEARCH,
        "iterations": arguments.iterations,
        "threads": 1,
        "seeds": arguments.seed,
        "candidates": candidates,
        "horizon": horizon,
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
        "rows": rows,
    }
    write_json(arguments.json, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, nargs="+", default=[ROOT / "models" / "two_rooms"])
    parser.add_argument(
        "--episodes", type=count, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0], metavar="S")
    parser.add_argument(
        "--iterations", type=count, default=6, help="iterations of a plan (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=count, default=300, help="rollouts of each bundle (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=result_file("predictors"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
