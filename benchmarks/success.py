"""How often the robot reaches its goal: the closed-loop table of report.json anew, from the shipped bundle.

Layouts, starts and goals are held out (jepa_export.evaluate); an episode succeeds if the model's energy says
"reached" and the robot truly is there. Exit status 1 if fp32 stays below --goal, or INT8 more than one point
below fp32."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa_export.evaluate import SEEDS, closed_loop
from jepa_runtime import Bundle
from jepa_runtime.errors import JepaRuntimeError

ROOT = Path(__file__).resolve().parent.parent
INT8_LOSS = 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes; returns the exit status."""
    arguments = _parser().parse_args(argv)
    seeds = tuple(arguments.seed)
    try:
        model_id = Bundle.open(arguments.bundle).manifest.model_id
        report = closed_loop(
            arguments.bundle,
            layout=arguments.layout or ("fixed" if model_id.endswith("_fixed") else "random"),
            seeds=seeds,
            episodes=arguments.episodes,
            precisions=tuple(dict.fromkeys(arguments.precision)),
            baselines=arguments.baselines,
        )
    except JepaRuntimeError as error:
        print(f"success: {error}", file=sys.stderr)
        return 2
    for name, score in report["scores"].items():
        print(line(name, score))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    failures = judge(report["scores"], arguments.goal)
    for failure in failures:
        print(f"success: {failure}", file=sys.stderr)
    return 1 if failures else 0


def line(name: str, score: dict[str, Any]) -> str:
    """One score in one line."""
    low, high = score["interval"]
    steps = "-" if score["mean_steps"] is None else f"{score['mean_steps']:.1f}"
    return (
        f"{name:<14} {score['successes']:>4}/{score['episodes']:<4} {score['rate']:6.1%} "
        f"[{low:.1%}, {high:.1%}]  steps {steps}  plan p50 {score['plan_ms_p50']:.1f} ms, "
        f"p95 {score['plan_ms_p95']:.1f} ms"
    )


def judge(scores: dict[str, dict[str, Any]], goal: float) -> list[str]:
    """What falls short. Where fp32 was not run, INT8 has nothing to be compared with but the goal, less the
    point it may lose."""
    failures = []
    full, quantized = scores.get("fp32"), scores.get("int8")
    if full is not None and full["rate"] < goal:
        failures.append(f"fp32 reaches {full['rate']:.1%} of the goals, asked for are {goal:.1%}")
    if quantized is not None:
        floor = (goal if full is None else full["rate"]) - INT8_LOSS
        # A hair of room: shares are fractions of whole episodes.
        if quantized["rate"] < floor - 1e-9:
            failures.append(f"int8 reaches {quantized['rate']:.1%} of the goals, asked for are {floor:.1%}")
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--episodes", type=_positive, default=100, help="for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), metavar="S")
    parser.add_argument("--precision", choices=("fp32", "int8"), nargs="+", default=["fp32", "int8"])
    parser.add_argument("--layout", choices=("random", "fixed"), help="default: what the bundle was made for")
    parser.add_argument(
        "--goal", type=float, default=0.90, help="share that fp32 must reach (default: %(default)s)"
    )
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave out straight line and random"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "success.json")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
