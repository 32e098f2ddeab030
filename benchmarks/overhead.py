"""Measure what the pipeline adds to inference: its encode and predict times against OpenVINO's benchmark_app.

Both run the same IRs of the same bundle with the same threads, one stream, the settings of the latency hint,
f32 for what is not quantized in the graph, one request at a time, and the predictor for the same number of
candidates. They take turns in several rounds, each in a new process: the memory layout makes a process some
percent faster or slower, and other activity of the machine affects both. Compared over all rounds:

    median(encode) + median(predict)   of the pipeline's own clocks: inference and the copy of the result (for
                                       predict also writing the inputs), one frame after the other;
    joined                             benchmark_app on encoder and predictor joined into one graph:
                                       OpenVINO's own time for a frame. Exit status 1 if the ratio to it is
                                       above --limit;
    encode, predict                    benchmark_app on each graph alone, with warm caches, while a pipeline
                                       alternates between two graphs: for information.
    joined, defaults                   the joined graph with OpenVINO's default precision (bf16 if the
                                       processor has it, activations quantized at run time): for information.

The default file of --json is named after the processor.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import openvino
import openvino.opset15 as ops
from peers.benchmark_app import DEFAULTS, OPTIONS, BenchmarkAppError, benchmark_app
from peers.files import result_file
from peers.rows import ENGINE, RowError, ServedRow, Setting
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jepa_runtime.backends import BackendOptions, create_backend
from jepa_runtime.bundle import Bundle, Manifest, Precision
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import graphs
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import summarize, write_json

ROOT = Path(__file__).resolve().parent.parent
STAGES = {"encode": "encoder", "predict": "predictor"}
JOINED, AT_DEFAULTS = "joined", "joined, defaults"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    try:
        report = compare(arguments)
    except (JepaRuntimeError, RowError, BenchmarkAppError) as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    show(report, console)
    return 0 if report["ratio"] <= arguments.limit else 1


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds and return the report."""
    bundle = Bundle.open(arguments.bundle)
    manifest, frame = bundle.manifest, bundle.manifest.io.frame
    precision = arguments.precision or manifest.graphs.encoder[0].precision
    backend = create_backend(ENGINE, BackendOptions(threads=arguments.threads))
    files = graphs(bundle, backend, precision, manifest.num_samples)
    backend.close()
    irs = {stage: (Path(files[role][0].name), files[role][1]) for stage, role in STAGES.items()}
    ours: dict[str, list[float]] = {}
    peer: dict[str, list[dict[str, float]]] = {turn: [] for turn in (*STAGES, JOINED, AT_DEFAULTS)}
    group = files["predictor"][0].dynamic_quantization_group_size
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            bundle=bundle, threads=arguments.threads, size=f"{frame.width}x{frame.height}", source="",
            rate_hz=0.0, frames=arguments.frames, seconds=0.0, scratch=Path(folder),
        )  # fmt: skip
        irs[JOINED] = irs[AT_DEFAULTS] = (join(manifest, irs, Path(folder) / "joined.xml"), {})
        for round_ in track(range(arguments.rounds), description="rounds"):
            # The order alternates from round to round.
            for turn in ("ours", *peer) if round_ % 2 == 0 else (*peer, "ours"):
                if turn == "ours":
                    for stage, values in pipeline_times(setting, precision).items():
                        ours.setdefault(stage, []).extend(values)
                else:
                    reported = benchmark_app(
                        *irs[turn], threads=arguments.threads, count=arguments.frames, percentile=50,
                        options=DEFAULTS if turn == AT_DEFAULTS else OPTIONS,
                        dynamic_quantization_group_size=group,
                    )  # fmt: skip
                    peer[turn].append({"median_ms": reported.percentile_ms, "count": reported.count})
    medians = {stage: median(run["median_ms"] for run in runs) for stage, runs in peer.items()}
    pipeline_ms = median(ours["encode"]) + median(ours["predict"])
    alone_ms = medians["encode"] + medians["predict"]
    return {
        "bundle": {"id": manifest.model_id, "version": manifest.version, "sha256": bundle.sha256},
        "precision": precision,
        "candidates": manifest.num_samples,
        "horizon": manifest.horizon,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "pipeline_ms": {name: summarize(values).as_dict(4) for name, values in ours.items()},
        "pipeline_sum_of_medians_ms": round(pipeline_ms, 4),
        "benchmark_app": {
            "options": OPTIONS,
            "dynamic_quantization_group_size": group,
            "defaults": DEFAULTS,
            "runs": peer,
            "median_ms": medians,
            "samples": {stage: sum(run["count"] for run in runs) for stage, runs in peer.items()},
        },
        "ratio": round(pipeline_ms / medians[JOINED], 4),
        "limit": arguments.limit,
        "ratio_to_graphs_alone": round(pipeline_ms / alone_ms, 4),
        "ratio_to_defaults": round(pipeline_ms / medians[AT_DEFAULTS], 4),
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
    }


def pipeline_times(setting: Setting, precision: str) -> dict[str, list[float]]:
    """Run one round of the pipeline and return the milliseconds per frame by stage."""
    row = ServedRow("pipeline", "", precision, setting, script="pipeline.py")
    try:
        row.open()
        row.measure()
    finally:
        row.close()
    return {stage: row.stages_ms[stage] for stage in ("preprocess", *STAGES)}


def join(manifest: Manifest, irs: dict[str, tuple[Path, dict[str, tuple[int, ...]]]], target: Path) -> Path:
    """Save one IR of encoder and predictor: the output of the first is the history of the second."""
    core = openvino.Core()
    encoder, predictor = (core.read_model(irs[stage][0]) for stage in STAGES)
    predictor.reshape({name: list(shape) for name, shape in irs["predict"][1].items()})
    taken = predictor.input("history_latents")
    history = np.array(taken.shape)
    latent = encoder.output("latent").node.input_value(0)
    state = ops.reshape(ops.broadcast(latent, history[1:]), history, False)
    for reader in list(taken.get_target_inputs()):
        reader.replace_source_output(state.output(0))
    inputs = [*encoder.get_parameters(), *(node for node in predictor.get_parameters() if node != taken.node)]
    both = openvino.Model([*encoder.get_results(), *predictor.get_results()], inputs, "joined")
    openvino.save_model(both, target, compress_to_fp16=False)
    return target


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as a table."""
    machine, peer = report["machine"], report["benchmark_app"]
    title = (
        f"{report['bundle']['id']} {report['bundle']['version']} {report['precision']}, "
        f"K = {report['candidates']}, {report['threads']} thread(s), {report['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("median ms")
    for column in ("pipeline", "n", "benchmark_app", "n", "ratio"):
        table.add_column(column, justify="right")
    for stage in STAGES:
        own, theirs = report["pipeline_ms"][stage], peer["median_ms"][stage]
        table.add_row(
            f"{stage}, that graph alone", f"{own['p50']:.3f}", str(own["n"]), f"{theirs:.3f}",
            str(peer["samples"][stage]), f"{own['p50'] / theirs:.3f}",
        )  # fmt: skip
    verdict = "green" if report["ratio"] <= report["limit"] else "red"
    table.add_section()
    table.add_row(
        "both, joined in one graph", f"{report['pipeline_sum_of_medians_ms']:.3f}", "",
        f"{peer['median_ms'][JOINED]:.3f}", str(peer["samples"][JOINED]),
        f"[{verdict}]{report['ratio']:.3f}[/]",
    )  # fmt: skip
    table.add_row(
        "the same with OpenVINO's defaults", f"{report['pipeline_sum_of_medians_ms']:.3f}", "",
        f"{peer['median_ms'][AT_DEFAULTS]:.3f}", str(peer["samples"][AT_DEFAULTS]),
        f"{report['ratio_to_defaults']:.3f}",
    )  # fmt: skip
    console.print(table)
    preprocess = report["pipeline_ms"]["preprocess"]["p50"]
    console.print(
        f"limit {report['limit']:.2f}; to the sum of the graphs alone {report['ratio_to_graphs_alone']:.3f}; "
        f"preprocess takes another {preprocess:.3f} ms (benchmark_app has none)"
    )
    console.print(f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--precision", choices=get_args(Precision), help="(default: the bundle's first)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", type=lambda text: {int(core) for core in text.split(",")}, metavar="0,1",
                        help="cores that both may use (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--frames", type=int, default=400, help="frames of each side per round (default: 400)"
    )
    parser.add_argument("--limit", type=float, default=1.10)
    parser.add_argument("--json", type=Path, default=result_file("overhead"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
