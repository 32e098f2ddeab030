"""Compare the latency of jepa-edge with other ways to run such a model: same bundle, same frames, one run.

Back to back, each in a separate process, from a uint8 frame to its latent and all futures:

    pipeline             jepa_runtime's pipeline
    benchmark_app        OpenVINO's own tool on the same IRs; it resizes no frames and has no history
    openvino_in_turn     OpenVINO's Python API on the same IRs, one after the other
    torch_eager          the exported modules with the same weights; INT8: dynamic quantization
    torch_compile        the same through torch.compile, default mode
    torch_compile_frozen with frozen weights; INT8: quantized by torchao
    onnxruntime          a session for each graph, numpy arrays in and out; INT8: its own quantizer

In INT8, fp32 and bf16, as far as each supports it. On a processor without bf16, libraries emulate it: this is
shown for a few frames of the first round, and does not predict the latency of a processor with bf16.

Over ROS 2, with images at --rate from a camera in another process, from the time an image was due until its
futures arrive in a third process, or, for a dropped image, those of a newer one:

    node            the world_model node, measured by jepa_ros.nodes.profiler
    plain_node      peers/plain_node.py, a node as commonly written
    plain_node_dds  the same with the DDS profile of jepa_bringup

All take turns in several rounds, every other one in reverse order, so that other activity of the machine
affects all of them. Nothing is timed that does not reproduce the bundle's golden outputs.

Exit status 1 if a goal is missed (see goals), 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from peers.benchmark_app import BenchmarkAppError
from peers.figures import round_by_round
from peers.files import result_file
from peers.rows import ENGINE, AbsentRowError, GraphRow, Row, RowError, Setting, rows_of
from peers.students import vit_s
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle, Precision
from jepa_runtime.commands import frame_size, positive
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import golden_parity
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import INTERVAL_METHOD, PERCENTILE_METHOD, format_ms, write_json

ROOT = Path(__file__).resolve().parent.parent
ROWS = (
    "pipeline", "benchmark_app", "openvino_in_turn", "torch_eager", "torch_compile", "torch_compile_frozen",
    "onnxruntime",
    "node", "plain_node", "plain_node_dds",
)  # fmt: skip
# Measured on request only.
ALONE = ("encoder",)
# Rows that do the same work.
PEERS = {
    "pipeline": ("torch_eager", "torch_compile", "torch_compile_frozen", "onnxruntime"),
    "node": ("plain_node", "plain_node_dds"),
}
ENCODE_LIMIT = 1.03


def goals(rows: Sequence[dict[str, Any]], encode_limit: float) -> list[dict[str, Any]]:
    """Return the goals that these rows cover: each ``value`` must be at most ``limit``.

    - encode inside the pipeline takes at most ``encode_limit`` x benchmark_app's median, round by round;
    - the pipeline's median is below that of each library in the same precision;
    - over ROS 2 the node's median and p99 are below those of the plain nodes, and no more images are dropped.
    """
    by_name = {(row["row"], row["precision"]): row for row in rows}
    checked: list[dict[str, Any]] = []

    def check(metric: str, value: float | None, peer: float | None, limit: float = 1.0) -> None:
        if value is not None and peer is not None:
            ratio = round(value / peer, 4)
            checked.append({"metric": metric, "value": ratio, "limit": limit, "met": ratio <= limit})

    for (name, precision), row in by_name.items():
        app = by_name.get(("benchmark_app", precision))
        if name == "pipeline" and app is not None:
            metric = f"encode p50, {precision}: pipeline / benchmark_app"
            check(metric, round_by_round(row, app, "encode"), 1.0, encode_limit)
        for other in PEERS.get(name, ()):
            peer = by_name.get((other, precision))
            if peer is None:
                continue
            for percentile in ("p50_ms", "p99_ms") if "dropped" in row else ("p50_ms",):
                metric = f"{percentile[:3]}, {precision}: {name} / {other}"
                check(metric, row[percentile]["value"], peer[percentile]["value"])
            if "dropped" in row:
                dropped, limit = row["dropped"], peer["dropped"]
                metric = f"images dropped: {name}, at most those of {other}"
                checked.append({"metric": metric, "value": dropped, "limit": limit, "met": dropped <= limit})
    return checked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    try:
        report = compare(arguments, console)
    except (JepaRuntimeError, RowError, BenchmarkAppError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    show(report, console)
    return 0 if all(goal["met"] for goal in report["goals"]) else 1


def compare(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run all rounds and return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run, or does not reproduce its golden outputs.
        RowError: A row failed.
        BenchmarkAppError: benchmark_app failed.
    """
    bundle = Bundle.open(arguments.bundle or vit_s())
    offered = [entry.precision for entry in bundle.manifest.graphs.encoder if entry.target == "openvino"]
    # Libraries compute in bf16 regardless of the bundle's variants.
    precisions = arguments.precision or list(dict.fromkeys([*offered, "bf16"]))
    with ExitStack() as stack:
        setting = Setting(
            bundle=bundle,
            threads=arguments.threads,
            size="x".join(map(str, arguments.size)),
            source=arguments.source,
            rate_hz=arguments.rate,
            frames=arguments.frames,
            seconds=arguments.seconds,
            scratch=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-latency-"))),
        )
        selected = [
            row
            for precision in precisions
            for row in rows_of(setting, precision)
            # Over ROS 2 only in the precision that would be served.
            if row.name in arguments.rows and (precision == precisions[0] or not isinstance(row, GraphRow))
        ]
        progress = stack.enter_context(Progress(console=console))
        _check_parity(bundle, [each for each in precisions if each in offered], arguments.threads)
        rows, absent = _open(selected, stack, progress)
        _measure(rows, arguments.rounds, progress)
        summaries = [row.summary() for row in rows]
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {
            "id": bundle.manifest.model_id,
            "version": bundle.manifest.version,
            "sha256": bundle.sha256,
        },
        "model_frame": [bundle.manifest.io.frame.width, bundle.manifest.io.frame.height],
        "frame_size": arguments.size,
        "candidates": bundle.manifest.num_samples,
        "horizon": bundle.manifest.horizon,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "frames_per_round": arguments.frames,
        "seconds_per_round": arguments.seconds,
        "rate_hz": arguments.rate,
        "source": arguments.source,
        "rows": summaries,
        "absent": absent,
        "goals": goals(summaries, arguments.limit),
        "statistics": {"percentiles": PERCENTILE_METHOD, "intervals": INTERVAL_METHOD},
        "environment": _environment(rows),
    }


def _check_parity(bundle: Bundle, precisions: Sequence[str], threads: int) -> None:
    for precision in precisions:
        for parity in golden_parity(
            bundle, engine=ENGINE, precision=precision, options=BackendOptions(threads=threads)
        ):
            if not parity.ok:
                raise RowError(
                    f"{bundle.path}: the {parity.graph} in {precision} does not reproduce the golden "
                    "outputs on "
                    "this machine, so its latency is meaningless; see jepa-runtime verify"
                )


def _open(
    selected: Sequence[Row], stack: ExitStack, progress: Progress
) -> tuple[list[Row], list[dict[str, str]]]:
    """Return the rows that can be measured (``stack`` closes them), and the reasons for the others."""
    rows, absent = [], []
    task = progress.add_task("opening", total=len(selected))
    for row in selected:
        progress.update(task, description=f"opening {row.name} {row.precision}")
        stack.callback(row.close)
        try:
            row.open()
            rows.append(row)
        except AbsentRowError as error:
            absent.append({"row": row.name, "precision": row.precision, "reason": str(error)})
        progress.advance(task)
    if not rows:
        raise RowError(
            "; ".join(f"{entry['row']}: {entry['reason']}" for entry in absent) or "no row was chosen"
        )
    return rows, absent


def _measure(rows: Sequence[Row], rounds: int, progress: Progress) -> None:
    task = progress.add_task("measuring", total=rounds * len(rows))
    for round_ in range(rounds):
        for row in rows if round_ % 2 == 0 else reversed(rows):
            progress.update(task, description=f"round {round_ + 1}: {row.name} {row.precision}")
            if round_ == 0 or not row.emulated:
                row.measure()
            progress.advance(task)


def _environment(rows: Sequence[Row]) -> dict[str, Any]:
    """Return this machine and the relevant versions, including those that the ROS 2 nodes reported."""
    machine = read_environment().model_dump()
    with suppress(PackageNotFoundError):
        machine["versions"]["torch"] = version("torch")
    for row in rows:
        if isinstance(row, GraphRow):
            machine["versions"] |= row.versions
    return machine


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as a table, and the goals."""
    bundle, environment_ = report["bundle"], report["environment"]
    title = (
        f"{bundle['id']} {bundle['version']}, {report['candidates']} futures of {report['horizon']} steps, "
        f"{report['threads']} thread(s), {report['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("row")
    table.add_column("")
    columns = ("p50 ms", "p99 ms", "encode", "predict", "n", "CPU s/frame", "MB", "start s", "dropped")
    for column in columns:
        table.add_column(column, justify="right")
    for row in report["rows"]:
        stages = row["stages_ms"]
        table.add_row(
            row["row"],
            row["precision"],
            _reported(row["p50_ms"]),
            _reported(row["p99_ms"]),
            *(format_ms(stages[stage]["p50"]) if stage in stages else "" for stage in ("encode", "predict")),
            str(row["n"]),
            f"{row['cpu_s_per_frame']:.4f}",
            f"{row['peak_rss_mb']:.0f}",
            "" if row["start_s"] is None else f"{row['start_s']:.1f}",
            f"{row['dropped']} of {row['due']}" if "dropped" in row else "",
        )
    console.print(table)
    for note in dict.fromkeys(note for row in report["rows"] for note in row["notes"]):
        console.print(note, markup=False, highlight=False)
    for entry in report["absent"]:
        console.print(f"absent: {entry['row']} {entry['precision']}: {entry['reason']}", markup=False)
    for goal in report["goals"]:
        verdict = "[green]met[/]" if goal["met"] else "[red]missed[/]"
        console.print(f"{verdict}: {goal['metric']}: {goal['value']}, limit {goal['limit']}", highlight=False)
    console.print(f"{environment_['cpu']}, {environment_['cores']} cores", highlight=False)
    console.print(", ".join(f"{name} {reported}" for name, reported in environment_["versions"].items()))


def _reported(quantile: dict[str, float | None]) -> str:
    low, high = quantile.get("low"), quantile.get("high")
    interval = f" ({format_ms(low)} to {format_ms(high)})" if low is not None else ""
    return format_ms(quantile["value"]) + interval


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add(
        "--bundle", type=Path, help="bundle (default: ViT-S with random weights, out/vit_s, built if missing)"
    )
    add(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        help="precisions (default: all that OpenVINO runs)",
    )
    add(
        "--rows",
        nargs="+",
        choices=(*ROWS, *ALONE),
        default=ROWS,
        metavar="ROW",
        help=f"rows to measure: {', '.join(ROWS)}",
    )
    add("--threads", type=int, default=2)
    add("--cores", type=lambda text: {int(core) for core in text.split(",")}, metavar="0,1",
        help="cores that all rows may use (default: all)")  # fmt: skip
    add("--rounds", type=int, default=6)
    add(
        "--frames", type=int, default=120, help="frames per round of a row without ROS (default: %(default)s)"
    )
    add(
        "--seconds",
        type=positive,
        default=20.0,
        help="duration of a round with ROS [s] (default: %(default)s)",
    )
    add("--rate", type=positive, default=30.0, help="images per second over ROS (default: %(default)s)")
    add("--size", type=frame_size, default=(640, 480), metavar="WxH", help="frame size (default: 640x480)")
    add("--source", default="two_rooms", help="source of the images over ROS (default: %(default)s)")
    add(
        "--limit",
        type=float,
        default=ENCODE_LIMIT,
        help="limit of encode / benchmark_app (default: %(default)s)",
    )
    add("--json", type=Path, default=result_file("latency"))
    return options


if __name__ == "__main__":
    sys.exit(main())
