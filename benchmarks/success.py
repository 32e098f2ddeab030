"""Goals reached in Two Rooms by the controller that drives the robot, and its decision times.

The shipped bundle in fp32 and INT8 drives with the controller of the planner node and all its safety checks,
in simulated time: six images per model step, one search iteration for each. Peers are straight-line driving,
random actions, and the same networks under a CEM in plain PyTorch, which makes one full plan per model step.
With ``--precision bf16`` also bf16, as jepa-export add-variant creates it; a processor without bf16 emulates
it in OpenVINO, which takes many times as long.

All have the same held-out episodes, in turns, on one thread each (jepa_sim.closed_loop). An episode counts if
the model's energy says "reached" and the robot is truly there. Exit status 1 if a precision reaches fewer
goals than --goal, INT8 or bf16 is more than one point below fp32, or p95 of a decision is longer than
--plan-ms (emulated bf16 excepted).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers import bf16
from rich.console import Console

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.episodes import SEEDS, Driver
from jepa_sim.closed_loop.run import Plan, closed_loop, progress
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
# Largest loss of success rate against fp32.
MAX_LOSS = 0.01
PRECISIONS = ("fp32", "int8", "bf16")
PEER = "torch_cem"
PEER_IS = "fp32 networks in PyTorch, CEM of the same settings in Python loops, one full plan per model step"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = measure(arguments)
    except JepaRuntimeError as error:
        print(f"success: {error}", file=sys.stderr)
        return 2
    for name, score in report["scores"].items():
        print(line(name, score))
    for name, ratio in report["plan_time_ratio"].items():
        print(f"per model step {PEER} takes {ratio:.1f} x the time of {name}")
    write_json(arguments.json, report)
    failures = check_limits(report["scores"], arguments.goal, arguments.plan_ms, emulated=report["emulated"])
    for failure in failures:
        print(f"success: {failure}", file=sys.stderr)
    return 1 if failures else 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle or the peer cannot be run.
    """
    bundle = Bundle.open(arguments.bundle)
    fixed = bundle.manifest.model_id.endswith("_fixed")
    world = TwoRooms(layout=arguments.layout or ("fixed" if fixed else "random"), seed=0)
    plan = Plan(
        precisions=tuple(dict.fromkeys(arguments.precision)),
        seeds=tuple(dict.fromkeys(arguments.seed)),
        episodes=arguments.episodes,
        baselines=arguments.baselines,
    )
    peers = {PEER: _peer(bundle, plan)} if arguments.peer else {}
    emulated: list[str] = []
    parity, sha256 = None, bundle.sha256
    with ExitStack() as stack:
        if "bf16" in plan.precisions:
            stack.enter_context(bf16.allowed())
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-success-"))
            bundle = bf16.with_bf16(bundle, Path(folder) / "bundle")
            parity, emulated = bf16.parity(bundle), [] if bf16.has_bf16() else ["bf16"]
        tick = stack.enter_context(progress(len(plan.seeds) * plan.episodes, Console()))
        report = closed_loop(bundle, world, plan, peers=peers, tick=tick).as_dict()
    scores = report["scores"]
    # The hash of the given bundle, without the bf16 variant.
    report |= {"sha256": sha256, "emulated": emulated, "parity_bf16": parity}
    report["peer"] = PEER_IS if peers else None
    report["plan_time_ratio"] = {
        name: scores[PEER]["plan_ms_p50"] / (scores[name]["plan_ms_p50"] * plan.planner.images_per_step)
        for name in plan.precisions or ()
        if peers
    }
    return report


def line(name: str, score: dict[str, Any]) -> str:
    """Return one score as a line of text."""
    low, high = score["interval"]
    steps = "-" if score["mean_steps"] is None else f"{score['mean_steps']:.1f}"
    return (
        f"{name:<14} {score['successes']:>4}/{score['episodes']:<4} {score['rate']:6.1%} "
        f"[{low:.1%}, {high:.1%}]  steps {steps}  decision p50 {score['plan_ms_p50']:.1f} ms, "
        f"p95 {score['plan_ms_p95']:.1f} ms"
    )


def check_limits(
    scores: dict[str, dict[str, Any]], goal: float, plan_ms: float, *, emulated: Sequence[str] = ()
) -> list[str]:
    """Return the limits that are missed; decision times of ``emulated`` precisions are not checked."""
    failures = []
    for name in (name for name in PRECISIONS if name in scores):
        score = scores[name]
        if score["rate"] < goal:
            failures.append(f"{name} reaches {score['rate']:.1%} of the goals, required {goal:.1%}")
        if name not in emulated and score["plan_ms_p95"] > plan_ms:
            failures.append(f"{name} decides in {score['plan_ms_p95']:.1f} ms (p95), limit {plan_ms:g} ms")
        floor = scores.get("fp32", score)["rate"] - MAX_LOSS
        # The margin is for rounding.
        if score["rate"] < floor - 1e-9:
            failures.append(f"{name} reaches {score['rate']:.1%} of the goals, required {floor:.1%} (fp32)")
    return failures


def _peer(bundle: Bundle, plan: Plan) -> Driver:
    if find_spec("torch") is None:
        raise JepaRuntimeError(
            f"{PEER} needs torch: pip install 'jepa-edge[export]' or use --no-peer",
            code="cli.missing_package",
        )
    from peers.torch_cem import TorchCEM

    return Driver(TorchCEM(bundle, plan.planner, threads=plan.threads))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--episodes", type=count, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), metavar="S")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32", "int8"])
    parser.add_argument(
        "--layout", choices=("random", "fixed"), help="layout of the rooms (default: the bundle's)"
    )
    parser.add_argument(
        "--goal", type=float, default=0.97, help="required success rate (default: %(default)s)"
    )
    parser.add_argument(
        "--plan-ms",
        type=float,
        default=50.0,
        metavar="MS",
        help="p95 limit of a decision (default: %(default)g)",
    )
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave out the baselines"
    )
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave out the CEM in PyTorch")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "success.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
