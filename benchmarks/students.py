"""Measure the family of students at full size, with random weights: size, compute and latency.

For each: parameters, multiply-adds, bytes; milliseconds on this CPU in the rows of benchmarks/latency.py that
need no ROS, which take turns; and the estimate of the cost model of Intel's NPU compiler, if it is installed
(not a measurement). Limits of the middle member:

    encoder INT8    4.5 x as fast as torch eager in fp32; alone, as in benchmark_app (in the pipeline the
                    predictor replaces it in the caches), at most 1.03 x benchmark_app's own time
    NPU 4000        at most 2.5 ms, estimated
    futures         64 of 8 steps in at most 10 ms

Exit status 1 if one is missed, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import latency
from peers.benchmark_app import BenchmarkAppError
from peers.figures import round_by_round
from peers.files import result_file
from peers.limit import Limit
from peers.rows import ENGINE, RowError
from peers.students import student
from rich.console import Console

from jepa_export.evaluation.compute_cost import multiply_adds, parameters
from jepa_export.students.family import FAMILY, create
from jepa_runtime.backends import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import graphs
from jepa_runtime.util import write_json

ROWS = ("pipeline", "encoder", "benchmark_app", "torch_eager", "torch_compile", "onnxruntime")
FORMS = ("--target", "onnx", "--target", "openvino", "--target", "npu")
MIDDLE, PX = "vit_s", 224
FASTER, OVERHEAD, NPU_MS, FUTURES_MS = 4.5, 1.03, 2.5, 10.0


def measure(name: str, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure one member.

    Raises:
        JepaRuntimeError: The bundle could not be built or run.
        RowError: A row could not be measured.
        BenchmarkAppError: benchmark_app failed.
    """
    bundle = Bundle.open(student(f"{name}_npu", name, *FORMS))
    found = create(name, px=PX, action_scale=(1.0, 1.0), seed=0)
    options = ["--bundle", str(bundle.path), "--rows", *ROWS, "--precision", "int8", "fp32"]
    options += ["--rounds", str(arguments.rounds), "--frames", str(arguments.frames)]
    options += ["--threads", str(arguments.threads)]
    report = json.loads((bundle.path / "report.json").read_text())
    return {
        "name": name,
        "parameters": {"encoder": parameters(found.encoder), "predictor": parameters(found.predictor)},
        **_weight(bundle),
        "npu_estimates_ms": _estimates(report.get("npu")),
        "latency": latency.compare(latency.parser().parse_args(options), console),
    }


def _weight(bundle: Bundle) -> dict[str, Any]:
    """Return the multiply-adds of encoder and predictor, and their bytes in each OpenVINO precision."""
    backend = create_backend(ENGINE)
    count, size = {}, {}
    for precision in ("int8", "fp32"):
        files = graphs(bundle, backend, precision, bundle.manifest.num_samples)
        size[precision] = sum(len(graph.model) + len(graph.weights or b"") for graph, _ in files.values())
        count = {role: multiply_adds(graph, shapes) for role, (graph, shapes) in files.items()}
    backend.close()
    return {"multiply_adds": count, "bytes": size}


def _estimates(npu: dict[str, Any] | None) -> dict[str, float]:
    """Return the estimates for the encoder in the faster of its precisions, by platform."""
    reported = (
        [row for row in npu["graphs"] if row["graph"] == "encoder" and "estimate" in row] if npu else []
    )
    return {
        platform: min(row["estimate"]["total_ms"] for row in reported if row["platform"] == platform)
        for platform in sorted({row["platform"] for row in reported})
    }


def check_limits(member: dict[str, Any]) -> list[Limit]:
    """Return the limits of the middle member, as far as they are known."""
    by_name = {(row["row"], row["precision"]): row for row in member["latency"]["rows"]}

    ours, alone, app = (by_name[row, "int8"] for row in ("pipeline", "encoder", "benchmark_app"))
    faster = round_by_round(ours, by_name["torch_eager", "fp32"], "encode")
    overhead, predict = round_by_round(alone, app, "encode"), ours["stages_ms"]["predict"]["p50"]
    frames = f"{ours['n']} frames"
    limits = [
        Limit("encoder", "INT8 over torch eager", faster, 1 / FASTER, "", frames),
        Limit("encoder", "INT8 alone over benchmark_app", overhead, OVERHEAD, "", frames),
        Limit("futures", "64 of 8 steps, INT8", predict, FUTURES_MS, "ms", frames),
    ]
    if reported := member["npu_estimates_ms"].get("4000"):
        limits.append(
            Limit("NPU", "encoder on a 4000, estimated", reported, NPU_MS, "ms", "Intel's compiler")
        )
    return limits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    arguments, console = _parser().parse_args(argv), Console()
    try:
        members = [measure(name, arguments, console) for name in FAMILY]
    except (JepaRuntimeError, RowError, BenchmarkAppError) as error:
        print(f"students: {error}", file=sys.stderr)
        return 2
    limits = check_limits(next(member for member in members if member["name"] == MIDDLE))
    report = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "px": PX,
        "threads": arguments.threads,
        "students": members,
        "limits": [vars(limit) | {"met": limit.met} for limit in limits],
        "environment": members[0]["latency"]["environment"],
    }
    write_json(arguments.json, report)
    for limit in limits:
        verdict = "[green]met[/]" if limit.met else "[red]missed[/]"
        console.print(f"{verdict}: {limit.check}, {limit.metric}: {limit.value:.3g}, limit {limit.limit:.3g}")
    return 0 if all(limit.met for limit in limits) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--frames", type=int, default=60, help="frames per round of a row (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=result_file("students"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
