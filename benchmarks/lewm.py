"""Measure LeWM's own planning problem on this CPU: 300 candidates of 5 steps, 30 iterations.

All futures of one iteration, in variants that take turns on the same candidates:

    student int8, fp32 the predictor of a student with as many parameters as LeWM's, run by the runtime:
                       frames are distinguished by their age, so what was computed for one stays valid
    ours int8, fp32    LeWM's predictor in jepa_export's rollout, which computes nothing twice, run by the
                       runtime
    ours bf16          the same in bf16, which the runtime never selects by itself
    loop …             the rollout as published, by OpenVINO, onnxruntime, torch.compile and torch, in fp32
    products …         the same number of multiply-adds in matrix products alone, of the same sizes, by
                       OpenVINO: the remaining time is spent on everything else

Then complete plans from a cold start, and their quality: plans for --problems problems of the synthetic world
that both predictors were trained in (peers/lewm_world.py; once, cached in out/), by each predictor, and by
LeWM's in fp32 with another seed; the world gives the position they lead to. Times exclude the encoding of a
frame. The student's plans are also made within --limit seconds, with as many iterations as that permits, as
on a robot.

Exit status 1 if a limit is missed: a plan in INT8 takes more than --limit seconds (the authors' figure for a
GPU), or INT8 plans leave more of the distance to their goals than those of LeWM's predictor in fp32, by more
than a hundredth of it; 2 if something cannot be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from peers.lewm_variants import (
    VARIANTS,
    Call,
    Floats32,
    Predict,
    Problem,
    loop,
    products_alone,
    rollout,
    student,
)
from peers.lewm_world import World, trained, trained_student
from peers.limit import Limit
from peers.products import multiply_adds
from rich.console import Console
from rich.table import Table

from jepa_export.evaluation.compute_cost import parameters
from jepa_export.targets.openvino import Sample
from jepa_runtime.control import ControllerConfig, preset
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning import ActionLimits, Plan, Planner, SearchContext, create_search, mean_squared
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import PERCENTILE_METHOD, format_ms, summarize, write_json

ROOT = Path(__file__).resolve().parent.parent
STUDENT, INT8, FP32, OTHER_SEED = "student int8", "ours int8", "ours fp32", "ours fp32, another seed"
ANYTIME = "student int8, within the time limit"
# INT8 calibration: number of rollouts, and of candidates in each.
CALIBRATION = (8, 64)
GPU_S, MOST_LOST = 0.98, 0.01
# Largest initial distance along an axis; five steps reach at most 2.
FURTHEST = 1.2
# Average rows of a product in a rollout's stages: 9 pairs in 5 stages.
PAIRS, STAGES = 9, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        report = measure(arguments)
    except (JepaRuntimeError, OSError) as error:
        print(f"lewm: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    show(report, Console())
    return 0 if all(limit["met"] for limit in report["limits"]) else 1


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return the report.

    Raises:
        JepaRuntimeError: A model cannot be run.
        OSError: A file cannot be read or written.
    """
    settings = preset("lewm")
    count, horizon = settings.search.num_samples, settings.search.horizon
    model, world = trained(arguments.training, ROOT / "out", depth=arguments.depth)
    predictor = trained_student(model, world, arguments.training, ROOT / "out")
    with ExitStack() as stack:
        problem = Problem(
            model=model,
            student=predictor,
            count=count,
            horizon=horizon,
            threads=arguments.threads,
            samples=list(calibration(world, horizon)),
            folder=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-lewm-"))),
        )
        multiply_adds_of = {
            name: problem.multiply_adds(create)
            for name, create in {"student": student, "ours": rollout, "loop": loop}.items()
        }
        rows = count * PAIRS // STAGES
        scale = multiply_adds_of["ours"] / multiply_adds(rows)
        variants = dict.fromkeys([STUDENT, INT8, FP32, *arguments.variants])
        predicts = {name: VARIANTS[name](problem, stack) for name in variants}
        alone = {name: products_alone(problem, stack, rows, name) for name in ("int8", "fp32")}
        ms = in_turns(predicts, alone, world, problem, arguments)
        plans = {
            name: [timed_plan(predicts[name], world, settings, seed) for seed in range(arguments.plans)]
            for name in (STUDENT, INT8, FP32)
        }
        quality = parity(predicts, world, settings, arguments.problems, arguments.limit)
    return {
        "candidates": [count, horizon, model.config.action_dim],
        "iterations": settings.iterations_per_step,
        "blocks": model.config.depth,
        "training_steps": arguments.training,
        "threads": arguments.threads,
        # LeWM's, without its projection and action encoder.
        "parameters": {
            "student": parameters(predictor),
            "ours": parameters(model.blocks, model.norm) + model.pos_embed.numel(),
        },
        "multiply_adds": multiply_adds_of,
        "iteration_ms": {name: summarize(ms[name]).as_dict(2) for name in predicts},
        "products_ms": {name: summarize(scale * each for each in ms[name]).as_dict(2) for name in alone},
        "plan_s": {name: [round(each, 3) for each in values] for name, values in plans.items()},
        "parity": quality,
        "limits": [asdict(limit) | {"met": limit.met} for limit in limits(plans, quality, arguments.limit)],
        "statistics": PERCENTILE_METHOD,
        "environment": _environment(),
    }


def calibration(world: World, horizon: int) -> Iterator[Sample]:
    """Yield inputs of rollouts for the calibration."""
    rng = np.random.default_rng(1)
    rollouts, count = CALIBRATION
    for _ in range(rollouts):
        places, actions = world.walk(rng, count, horizon)
        yield {"history_latents": world.encode(places[0, 0])[None, None, None], "actions": actions}


def in_turns(
    predicts: Mapping[str, Predict],
    alone: Mapping[str, Call],
    world: World,
    problem: Problem,
    arguments: argparse.Namespace,
) -> dict[str, list[float]]:
    """Return the milliseconds of each call; the first call of each round is not counted."""
    places, actions = world.walk(np.random.default_rng(2), problem.count, problem.horizon)
    latent = world.encode(places[0, 0])
    calls: dict[str, Call] = {name: partial(predict, latent, actions) for name, predict in predicts.items()}
    calls |= alone
    ms: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(arguments.rounds):
        for name in list(calls)[:: 1 if round_ % 2 == 0 else -1]:
            calls[name]()
            for _ in range(arguments.calls):
                began = time.perf_counter()
                calls[name]()
                ms[name].append((time.perf_counter() - began) * 1e3)
    return ms


def plan(
    predict: Predict,
    settings: ControllerConfig,
    latent: Floats32,
    goal: Floats32,
    seed: int,
    budget_s: float | None = None,
) -> Plan:
    """Plan from one latent [D] to another, from a cold start."""
    side = np.ones(10, np.float32)
    search = create_search(
        settings.search, SearchContext(limits=ActionLimits(low=-side, high=side), seed=seed)
    )
    planner = Planner(
        search, iterations=settings.iterations_per_step, budget_s=budget_s, reduction=settings.reduction
    )
    return planner.plan(lambda candidates: _energies(predict(latent, candidates), goal))


def timed_plan(predict: Predict, world: World, settings: ControllerConfig, seed: int) -> float:
    """Return the seconds of a plan."""
    start, goal = (world.encode(place) for place in _problem(seed))
    began = time.perf_counter()
    plan(predict, settings, start, goal, seed)
    return time.perf_counter() - began


def parity(
    predicts: Mapping[str, Predict], world: World, settings: ControllerConfig, problems: int, budget_s: float
) -> dict[str, Any]:
    """Return how much of the distance to the goal the plans of each predictor leave.

    Means over the problems, relative to the first distance in the world, and to the first energy as seen by
    LeWM's predictor in fp32; and the time of the plans that were limited to ``budget_s``.
    """
    makers: dict[str, tuple[Predict, int, float | None]]
    makers = {name: (predicts[name], 0, None) for name in (STUDENT, INT8, FP32)}
    makers[OTHER_SEED] = predicts[FP32], problems, None
    makers[ANYTIME] = predicts[STUDENT], 0, budget_s
    remaining: dict[str, dict[str, list[float]]] = {name: {"distance": [], "energy": []} for name in makers}
    iterations, seconds = [], []
    for number in range(problems):
        start, goal = _problem(number)
        latent, target = world.encode(start), world.encode(goal)
        for name, (predict, other, budget) in makers.items():
            began = time.perf_counter()
            planned = plan(predict, settings, latent, target, number + other, budget)
            if budget is not None:
                iterations.append(planned.iterations)
                seconds.append(round(time.perf_counter() - began, 3))
            end, actions = start, planned.mean
            for action in actions:
                end = world.move(end, action)
            many = np.broadcast_to(actions, (settings.search.num_samples, *actions.shape))
            predicted = _energies(predicts[FP32](latent, many), target)[0]
            first = mean_squared(latent[None], target[None])
            distance = np.linalg.norm(end - goal) / np.linalg.norm(start - goal)
            remaining[name]["distance"].append(float(distance))
            remaining[name]["energy"].append(float(predicted / first))
    return {
        "problems": problems,
        "anytime": {"iterations": iterations, "seconds": seconds},
        "remaining": {
            name: {
                what: {"mean": float(np.mean(values)), "worst": max(values)} for what, values in of.items()
            }
            for name, of in remaining.items()
        },
    }


def limits(plans_s: Mapping[str, Sequence[float]], quality: Mapping[str, Any], limit_s: float) -> list[Limit]:
    """Return the limits of INT8 for the student and for LeWM's predictor."""
    remaining = {name: of["distance"]["mean"] for name, of in quality["remaining"].items()}
    checked = []
    for name, predictor in {STUDENT: "a student of its size", INT8: "LeWM's predictor"}.items():
        seconds = plans_s[name]
        checked += [
            Limit(
                "plan", f"{predictor}, INT8, median", round(median(seconds), 3), limit_s, "s",
                f"{len(seconds)} plans",
            ),
            Limit(
                "parity", f"{predictor}, INT8: remaining distance to the goal, beyond LeWM's in fp32",
                round(remaining[name] - remaining[FP32], 5), MOST_LOST, "of the distance",
                f"{quality['problems']} problems",
            ),
        ]  # fmt: skip
    anytime = quality["anytime"]
    many = f"{quality['problems']} plans of {median(anytime['iterations']):g} iterations (median)"
    checked += [
        Limit("anytime", f"{ANYTIME}: longest", max(anytime["seconds"]), limit_s, "s", many),
        Limit(
            "anytime", f"{ANYTIME}: remaining distance to the goal, beyond LeWM's in fp32",
            round(remaining[ANYTIME] - remaining[FP32], 5), MOST_LOST, "of the distance", many,
        ),
    ]  # fmt: skip
    return checked


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as tables."""
    table = Table(title="all futures of one iteration, ms", title_justify="left")
    for column in ("", "p50", "p95", "max", "n"):
        table.add_column(column, justify="right" if column else "left")
    rows = report["iteration_ms"] | {f"products {name}": of for name, of in report["products_ms"].items()}
    for name, of in rows.items():
        table.add_row(name, *(format_ms(of[key]) for key in ("p50", "p95", "max")), str(of["n"]))
    console.print(table)
    for name, values in report["plan_s"].items():
        console.print(f"plans, {name}: {', '.join(f'{value:.2f}' for value in values)} s")
    for name, of in report["parity"]["remaining"].items():
        reported = ", ".join(f"{of[what]['mean']:.2%} of the {what}" for what in of)
        console.print(f"remaining after plans of {name}: {reported}")
    for limit in report["limits"]:
        verdict = "[green]met[/]" if limit["met"] else "[red]missed[/]"
        console.print(
            f"{verdict}: {limit['check']}: {limit['metric']}: {limit['value']} (limit {limit['limit']})"
        )
    console.print(f"{report['environment']['cpu']}, {report['environment']['cores']} cores")


def _problem(number: int) -> tuple[Floats32, Floats32]:
    """Return a start and a goal."""
    rng = np.random.default_rng([3, number])
    start = rng.uniform(-1, 1, 2).astype(np.float32)
    goal = np.clip(start + rng.uniform(-FURTHEST, FURTHEST, 2), -1, 1).astype(np.float32)
    return start, goal


def _energies(futures: Floats32, goal: Floats32) -> Floats32:
    """Return the energy of the last step, as in LeWM: [K, H, D] -> [K]."""
    return mean_squared(futures[:, -1:], goal[None])


def _environment() -> dict[str, Any]:
    machine = read_environment().model_dump()
    machine["versions"]["torch"] = version("torch")
    return machine


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), metavar="VARIANT",
        help=f"variants in addition to {STUDENT}, {INT8} and {FP32}: {', '.join(VARIANTS)}")  # fmt: skip
    add("--rounds", type=int, default=5, help="alternating rounds (default: %(default)s)")
    add("--calls", type=int, default=4, help="calls counted in each round (default: %(default)s)")
    add("--plans", type=int, default=5, help="timed plans (default: %(default)s)")
    add("--problems", type=int, default=20, help="problems for the quality of plans (default: %(default)s)")
    add("--training", type=int, default=100, help="training steps of the predictor (default: %(default)s)")
    add("--depth", type=int, help="blocks of the predictor (default: all)")
    add("--threads", type=int, default=2, help="threads of each variant (default: %(default)s)")
    add("--limit", type=float, default=GPU_S, help="time limit of a plan [s] (default: %(default)s)")
    add("--json", type=Path, default=ROOT / "benchmarks" / "results" / "lewm.json")
    return options


if __name__ == "__main__":
    sys.exit(main())
