"""What planning costs: LeWM's own problem, and the search alone.

lewm        one plan of LeWM (300 candidates of 5 steps, 30 iterations) on a predictor of its size, exported
            and run in fp32 as bundles are. Its weights are random: what it plans means nothing, what it
            takes is the same. From one known frame, as LeWM plans; the frame's encoding is not in it.
search      ask and tell of each preset in jepa_runtime.planning.presets, without a model: what the planner
            itself adds to an iteration. Costs are drawn beforehand."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from jepa_export.distillation.teacher import open_teacher
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import convert, save
from jepa_export.teachers.lewm import LeWM
from jepa_runtime.backends.base import BackendOptions, Graph
from jepa_runtime.backends.select import create_backend
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.control import search_of
from jepa_runtime.planning.energies import mean_squared
from jepa_runtime.planning.limits import ActionLimits
from jepa_runtime.planning.planner import Planner
from jepa_runtime.planning.presets import PRESETS, preset
from jepa_runtime.profiling.environment import cpu, versions
from jepa_runtime.profiling.statistics import METHOD, summarize

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "openvino:CPU"
# Numbers in an action of each preset's own robot.
ACTION_SIZES = {"vjepa2_ac": 7, "lewm": 10, "eb_jepa": 2, "two_rooms": 2}
Floats32 = NDArray[np.float32]


class Rollout(nn.Module):
    """latent [1, 1, D], actions [K, H, A] -> futures [K, H, D]."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        return self.model.rollout(latent.expand(actions.shape[0], -1, -1), actions)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = {
            "search": {name: search_alone(name, arguments.iterations) for name in PRESETS},
            "lewm": lewm_plans(arguments.plans, arguments.threads, arguments.depth)
            if arguments.plans
            else None,
            "method": METHOD,
            "machine": {"cpu": cpu(), "versions": versions()},
        }
    except JepaRuntimeError as error:
        print(f"planning: {error}", file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(report, Console())
    return 0


def search_alone(name: str, iterations: int) -> dict[str, Any]:
    """Milliseconds of ask and tell in each of ``iterations``."""
    settings, size = preset(name).search, ACTION_SIZES[name]
    search = search_of(settings, _limits(size), seed=0)
    costs = np.random.default_rng(0).uniform(0, 1, (iterations, settings.num_samples)).astype(np.float32)
    spent_ms: dict[str, list[float]] = {"ask": [], "tell": []}
    for each in costs:
        began = time.perf_counter()
        search.ask()
        asked = time.perf_counter()
        search.tell(each)
        spent_ms["ask"].append((asked - began) * 1e3)
        spent_ms["tell"].append((time.perf_counter() - asked) * 1e3)
    return {
        "candidates": [settings.num_samples, settings.horizon, size],
        "ms": {part: summarize(values).as_dict(4) for part, values in spent_ms.items()},
    }


def lewm_plans(plans: int, threads: int, depth: int | None) -> dict[str, Any]:
    """``plans`` plans of LeWM's problem, each from a cold start, after one iteration to warm up."""
    settings = preset("lewm")
    count, horizon = settings.search.num_samples, settings.search.horizon
    teacher = open_teacher("lewm", untrained=True, depth=depth, seed=0, accept_non_commercial=False)
    model = teacher.model
    width, size = model.config.encoder.width, model.config.action_dim
    search = search_of(settings.search, _limits(size), seed=0)
    latent, goal = np.random.default_rng(0).standard_normal((2, 1, width), dtype=np.float32)
    predict_ms: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(create_backend(ENGINE, BackendOptions(threads=threads))) as backend,
    ):
        graph = export(model, horizon, Path(folder))
        shapes = {"latent": (1, 1, width), "actions": (count, horizon, size)}
        with closing(backend.load(graph, shapes)) as session:
            session.inputs["latent"][:] = latent

            def rollout(candidates: Floats32) -> Floats32:
                began = time.perf_counter()
                session.inputs["actions"][:] = candidates
                futures = session.run()["futures"]
                energies = mean_squared(futures[:, :, None], goal)
                predict_ms.append((time.perf_counter() - began) * 1e3)
                return energies

            Planner(search, iterations=1, reduction=settings.reduction).plan(rollout)
            predict_ms.clear()
            planner = Planner(search, iterations=settings.iterations, reduction=settings.reduction)
            plan_ms = []
            for _ in range(plans):
                search.reset()
                began = time.perf_counter()
                planner.plan(rollout)
                plan_ms.append((time.perf_counter() - began) * 1e3)
    return {
        "candidates": [count, horizon, size],
        "iterations": settings.iterations,
        "blocks": model.config.depth,
        "engine": f"{ENGINE} fp32, {threads} thread(s)",
        "plan_ms": summarize(plan_ms).as_dict(1) | {"all": [round(value, 1) for value in plan_ms]},
        "predict_ms": summarize(predict_ms).as_dict(2),
        "share_of_search": round(1 - sum(predict_ms) / sum(plan_ms), 5),
    }


def export(model: LeWM, horizon: int, folder: Path) -> Graph:
    """The rollout of any number of candidates, from one known frame, as an IR."""
    config = model.config
    inputs = {
        "latent": torch.zeros(1, 1, config.encoder.width),
        "actions": torch.zeros(2, horizon, config.action_dim),
    }
    export_onnx(Rollout(model), inputs, ["futures"], folder / "model.onnx", free_axis=("actions",))
    save(convert(folder / "model.onnx"), folder / "model.xml")
    return Graph.read(folder / "model.xml")


def show(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    table = Table(title="the search alone, ms in an iteration", title_justify="left")
    table.add_column("preset")
    for column in ("K x H x A", "ask p50", "ask p95", "tell p50", "tell p95", "n"):
        table.add_column(column, justify="right")
    for name, found in report["search"].items():
        ask, tell = found["ms"]["ask"], found["ms"]["tell"]
        figures = (
            "-" if each is None else f"{each:.3f}"
            for part in (ask, tell)
            for each in (part["p50"], part["p95"])
        )
        table.add_row(name, " x ".join(map(str, found["candidates"])), *figures, str(ask["n"]))
    console.print(table)
    if lewm := report["lewm"]:
        plans = ", ".join(f"{value / 1e3:.2f}" for value in lewm["plan_ms"]["all"])
        console.print(
            f"LeWM's problem, {lewm['blocks']} blocks, {lewm['engine']}: plans of {lewm['iterations']} "
            f"iterations took {plans} s; {lewm['share_of_search']:.2%} of that was the search"
        )
    console.print(f"{report['machine']['cpu']['model']}, {report['machine']['cpu']['cores']} cores")


def _limits(size: int) -> ActionLimits:
    return ActionLimits(low=np.full(size, -1, np.float32), high=np.ones(size, np.float32))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", type=int, default=3, help="of LeWM's problem (default: %(default)s)")
    parser.add_argument("--depth", type=int, help="blocks of its predictor (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--iterations", type=int, default=1000, help="of each search alone (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "planning.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
