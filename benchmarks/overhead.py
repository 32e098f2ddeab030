"""What the pipeline adds to inference: its encode and predict times against OpenVINO's own benchmark_app.

Both run the same IRs of the same bundle with the same threads, one stream, the latency hint's settings, f32
for what is not quantized, one request at a time, and the predictor for the same number of candidates. They
take turns in several rounds, so that whatever else the machine does hits both. Compared are, over all rounds,

    median(encode) + median(predict)   of the pipeline's own clocks: inference and the copy of the result (for
                                       predict the writing of the inputs too), one frame after the other;
    median + median                    of what benchmark_app reports for encoder and predictor, each round's
                                       median weighing the same.

For information, both graphs are also joined into one and given to benchmark_app: what OpenVINO itself takes
for a frame when neither graph has the caches to itself.

Exit status 1 if the ratio of the sums is above --limit."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino
import openvino.opset15 as ops
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.pipeline import Pipeline, Result
from jepa_runtime.profiling.environment import cpu, versions
from jepa_runtime.profiling.statistics import summarize
from jepa_runtime.sources.base import Frame

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 20
PATIENCE_S = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    try:
        report = compare(arguments)
    except (JepaRuntimeError, RuntimeError) as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(report, console)
    return 0 if report["ratio"] <= arguments.limit else 1


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds, as the report that is written."""
    bundle = Bundle.open(arguments.bundle)
    count = arguments.samples or bundle.manifest.num_samples
    ours: dict[str, list[float]] = {"preprocess": [], "encode": [], "predict": []}
    peer: dict[str, list[dict[str, float]]] = {"encode": [], "predict": []}
    together: list[dict[str, float]] = []
    with WorldModel.open(bundle, precision=arguments.precision, num_samples=count) as model:
        precision = model.precision
    graphs = {"encode": "encoder", "predict": "predictor"}
    irs = {
        stage: next(
            variant.path
            for variant in bundle.manifest.graphs.of(role)  # type: ignore[arg-type]
            if variant.target == "openvino" and variant.precision == precision
        )
        for stage, role in graphs.items()
    }
    scratch = tempfile.TemporaryDirectory()
    joined = join(bundle, irs, count, Path(scratch.name) / "joined.xml")
    for round_ in track(range(arguments.rounds), description="rounds"):
        # Who goes first changes from round to round.
        for turn in ("ours", "peer") if round_ % 2 == 0 else ("peer", "ours"):
            if turn == "ours":
                for name, values in pipeline_times(bundle, precision, count, arguments).items():
                    ours[name] += values
            else:
                for stage, path in irs.items():
                    shapes = _shapes(bundle, stage, count)
                    peer[stage].append(benchmark_app(bundle.path / path, shapes, arguments))
                together.append(benchmark_app(joined, None, arguments))
    scratch.cleanup()
    summary = {name: summarize(values).as_dict(4) for name, values in ours.items()}
    medians = {stage: median(entry["median_ms"] for entry in entries) for stage, entries in peer.items()}
    pipeline_ms = median(ours["encode"]) + median(ours["predict"])
    joined_ms = median(entry["median_ms"] for entry in together)
    return {
        "bundle": {
            "id": bundle.manifest.model_id,
            "version": bundle.manifest.version,
            "sha256": bundle.sha256,
        },
        "precision": precision,
        "candidates": count,
        "horizon": bundle.manifest.horizon,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "pipeline_ms": summary,
        "benchmark_app": {
            "options": _options(arguments),
            "runs": peer,
            "median_ms": medians,
            "samples": {stage: int(sum(run["count"] for run in runs)) for stage, runs in peer.items()},
        },
        "pipeline_sum_of_medians_ms": round(pipeline_ms, 4),
        "benchmark_app_sum_of_medians_ms": round(sum(medians.values()), 4),
        "ratio": round(pipeline_ms / sum(medians.values()), 4),
        "limit": arguments.limit,
        "joined": {
            "runs": together,
            "median_ms": round(joined_ms, 4),
            "ratio": round(pipeline_ms / joined_ms, 4),
        },
        "machine": {"cpu": cpu(), "versions": versions()},
    }


def pipeline_times(
    bundle: Bundle, precision: str, count: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """One round of the pipeline: milliseconds per frame and stage."""
    options = BackendOptions(threads=arguments.threads)
    manifest = bundle.manifest
    frame, step_ns = manifest.io.frame, round(manifest.io.step_s * 1e9)
    images = np.random.default_rng(0).integers(0, 256, (8, frame.height, frame.width, 3), np.uint8)
    needed = WARM_UP + arguments.frames + manifest.history_size
    # Of each result the clocks only: kept futures would cost each next frame fresh memory.
    times: list[dict[str, float]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def submit(index: int) -> None:
        pipeline.submit(Frame(images[index % len(images)], index * step_ns, "benchmark", index))

    def take(result: Result) -> None:
        # The next frame comes with the result of the last: back to back, as benchmark_app does it.
        times.append(result.timings_ms)
        if len(times) < needed:
            submit(len(times))
        else:
            done.set()

    def fail(error: Exception, _frame: Frame | None) -> None:
        failures.append(error)
        done.set()

    pipeline = Pipeline(
        lambda: WorldModel.open(bundle, precision=precision, num_samples=count, options=options),
        on_result=take,
        on_error=fail,
    )
    with pipeline:
        submit(0)
        finished = done.wait(PATIENCE_S)
    if failures or not finished:
        what = failures[0] if failures else f"{len(times)} of {needed} frames in {PATIENCE_S:g} s"
        raise RuntimeError(f"the pipeline failed: {what}")
    counted = times[-arguments.frames :]
    return {name: [stages[name] for stages in counted] for name in ("preprocess", "encode", "predict")}


def join(bundle: Bundle, irs: dict[str, str], count: int, target: Path) -> Path:
    """One IR of encoder and predictor: what the first gives is the history of the second."""
    manifest, core = bundle.manifest, openvino.Core()
    encoder, predictor = (core.read_model(bundle.path / irs[stage]) for stage in ("encode", "predict"))
    latent = [manifest.io.latent.tokens, manifest.io.latent.dim]
    history = [1, manifest.history_size, *latent]
    actions = [count, manifest.horizon, manifest.action_size]
    predictor.reshape({"history_latents": history, "actions": actions})
    repeated = ops.broadcast(encoder.output("latent").node.input_value(0), np.array(history[1:]))
    state = ops.reshape(repeated, np.array(history), False)
    taken = predictor.input("history_latents").node
    for reader in list(taken.output(0).get_target_inputs()):
        reader.replace_source_output(state.output(0))
    inputs = [*encoder.get_parameters(), *(node for node in predictor.get_parameters() if node != taken)]
    both = openvino.Model([*encoder.get_results(), *predictor.get_results()], inputs, "joined")
    openvino.save_model(both, target, compress_to_fp16=False)
    return target


def benchmark_app(path: Path, shapes: str | None, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of OpenVINO's benchmark_app: the median latency it reports and how many runs it is of."""
    command = [
        sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()",
        "-m", str(path.resolve()), *(["-shape", shapes] if shapes else []), *_options(arguments),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # It leaves a report where it runs.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"benchmark_app failed ({done.returncode}): {said.strip()[-800:]}")
    found = re.search(r"Median:\s+([\d.]+) (us|ms)", said)
    runs = re.search(r"Count:\s+(\d+) iterations", said)
    if found is None or runs is None:
        raise RuntimeError(f"benchmark_app reported no median: {said.strip()[-800:]}")
    return {"median_ms": float(found[1]) / (1000 if found[2] == "us" else 1), "count": int(runs[1])}


def _options(arguments: argparse.Namespace) -> list[str]:
    # benchmark_app takes threads and pinning with -hint none only; -api sync with one stream is then what the
    # latency hint makes of them, and what the runtime asks for.
    return [
        "-d", "CPU", "-hint", "none", "-api", "sync", "-nstreams", "1", "-nthreads", str(arguments.threads),
        "-pin", "YES", "-infer_precision", "f32", "-t", str(arguments.seconds),
    ]  # fmt: skip


def _shapes(bundle: Bundle, stage: str, count: int) -> str:
    manifest = bundle.manifest
    frame, latent = manifest.io.frame, manifest.io.latent
    if stage == "encode":
        return f"frame[1,{frame.height},{frame.width},3]"
    shapes = [
        f"history_latents[1,{manifest.history_size},{latent.tokens},{latent.dim}]",
        f"actions[{count},{manifest.horizon},{manifest.action_size}]",
    ]
    if manifest.history_size > 1:
        shapes.append(f"history_actions[1,{manifest.history_size - 1},{manifest.action_size}]")
    return ",".join(shapes)


def show(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    machine, peer = report["machine"], report["benchmark_app"]
    title = (
        f"{report['bundle']['id']} {report['bundle']['version']} {report['precision']}, "
        f"K = {report['candidates']}, {report['threads']} thread(s), {report['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("median ms")
    for column in ("pipeline", "n", "benchmark_app", "n", "ratio"):
        table.add_column(column, justify="right")
    for stage, theirs in peer["median_ms"].items():
        own = report["pipeline_ms"][stage]
        table.add_row(
            stage, f"{own['p50']:.3f}", str(own["n"]), f"{theirs:.3f}", str(peer["samples"][stage]),
            f"{own['p50'] / theirs:.3f}",
        )  # fmt: skip
    sums = report["pipeline_sum_of_medians_ms"], report["benchmark_app_sum_of_medians_ms"]
    verdict = "green" if report["ratio"] <= report["limit"] else "red"
    table.add_section()
    table.add_row("sum", f"{sums[0]:.3f}", "", f"{sums[1]:.3f}", "", f"[{verdict}]{report['ratio']:.3f}[/]")
    console.print(table)
    preprocess = report["pipeline_ms"]["preprocess"]["p50"]
    console.print(
        f"limit {report['limit']:.2f}; beside it: preprocess {preprocess:.3f} ms (benchmark_app has none)"
    )
    both = report["joined"]
    console.print(
        f"both graphs joined in one: benchmark_app {both['median_ms']:.3f} ms, ratio {both['ratio']:.3f}"
    )
    console.print(f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: the bundle's first")
    parser.add_argument("--samples", type=int, help="K, candidates in one prediction (default: the bundle's)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", type=lambda text: {int(core) for core in text.split(",")}, metavar="0,1",
                        help="cores that both may use (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--frames", type=int, default=400, help="frames through the pipeline in each round")
    parser.add_argument("--seconds", type=int, default=2, help="of each run of benchmark_app")
    parser.add_argument("--limit", type=float, default=1.10)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "overhead.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
