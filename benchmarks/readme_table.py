"""Prints the README's tables of measured figures, from the committed result files and nothing else.

usage: python benchmarks/readme_table.py [--write]        --write: replace the tables in README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PARTS = {
    "before": "before",
    "first_50_after": "steps 1 to 50 after it",
    "from_50_to_200_after": "50 to 200",
    "from_200_to_400_after": "200 to 400",
}


def measured() -> str:
    """What the demo's model does."""
    demo = _read("benchmarks/results/demo.json")
    overhead = _read("benchmarks/results/overhead.json")
    success = _read("benchmarks/results/success.json")
    piloting, e2e = _read("benchmarks/results/piloting.json"), demo["e2e_ms"]
    published, dropped = demo["frames_published"], demo["frames_dropped"]
    encode, predict = demo["encode_ms"], demo["predict_ms"]
    futures = f"{demo['futures_per_frame']} futures of {demo['horizon']} steps"
    rows = [
        ("image stamp to futures in another process", _spread(e2e), f"{e2e['n']} images, `make demo`"),
        ("images dropped at 30 Hz", f"{dropped} of {published}", "`make demo`"),
        (
            f"encode; predict {futures}",
            f"p50 {encode['p50']:.1f} ms; {predict['p50']:.1f} ms, inside the demo",
            f"{encode['n']} images, `make demo`",
        ),
        ("goals reached in the demo", f"{demo['successes']} of {demo['episodes']}", "`make demo`"),
        ("memory of the node at most, with its start", f"{demo['rss_mb']:.0f} MB", "`make demo`"),
        (
            "pipeline against OpenVINO's benchmark_app, same graphs",
            f"{overhead['ratio']:.2f} x",
            f"{overhead['pipeline_ms']['encode']['n']} frames, `benchmarks/overhead.py`",
        ),
    ]
    names = {
        "fp32": "goals reached, fp32",
        "int8": "goals reached, INT8",
        "torch_cem": "goals reached, plain PyTorch CEM of the same settings",
    }
    for name, score in success["scores"].items():
        shown = f"{score['rate']:.1%} ({_range(score['interval'])})"
        what = names.get(name, f"goals reached, {name.replace('_', ' ')} baseline")
        rows.append((what, shown, f"{score['episodes']} held-out episodes, `benchmarks/success.py`"))
    driven = piloting["nodes"]
    shown = f"{driven['rate']:.1%} ({_range(driven['interval'])})"
    of = f"{driven['episodes']} held-out episodes in virtual time, `benchmarks/piloting.py`"
    rows.append(("goals reached as the ROS nodes drive, INT8", shown, of))
    planning = success["scores"]["int8"]
    rows.append(
        (
            "one plan (6 iterations of 64 x 8), INT8, one thread",
            f"p50 {planning['plan_ms_p50']:.1f}, p95 {planning['plan_ms_p95']:.1f} ms",
            f"the plans of {planning['episodes']} episodes, `benchmarks/success.py`",
        )
    )
    if ratio := success.get("plan_time_ratio"):
        rows.append(
            (
                "one plan of the PyTorch CEM, x ours",
                f"{ratio['int8']:.1f} x INT8, {ratio['fp32']:.1f} x fp32",
                "`benchmarks/success.py`, in the same episodes",
            )
        )
    versions = demo["versions"]
    software = ", ".join(f"{name} {versions[name]}" for name in ("python", "openvino", "numpy"))
    lines = [
        *_where(
            {
                "`make demo`": _processor(demo["cpu"]),
                "`benchmarks/overhead.py`": _processor(overhead["machine"]["cpu"]),
                "`benchmarks/success.py`": _processor(success["machine"]["cpu"]),
                "`benchmarks/piloting.py`": _processor(_cpu(piloting)),
            }.items()
        ),
        f"Of `make demo`: {versions['system']}, ROS 2 {versions['ros']}, {software}.",
        "Cores that others share, no GPU, no NPU. Intervals are 95 % (Wilson).",
        "",
        "| what | measured | of |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {what} | {value} | {of} |" for what, value, of in rows)])


def latency() -> str:
    """The ways of running one model."""
    report = _read("benchmarks/results/latency.json")
    lines = [
        f"{_model(report)}, {report['threads']} threads, in {report['rounds']} rounds that take turns.",
        _machine(report["environment"]),
        "",
        "| | | p50 ms | p99 ms | n | CPU ms a frame | memory MB | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        dropped = f"{row['dropped']} of {row['due']}" if "dropped" in row else ""
        p99 = row["p99_ms"]["value"]
        lines.append(
            f"| {row['label']} | {row['precision']} | {row['p50_ms']['value']:.1f} | "
            f"{'' if p99 is None else f'{p99:.1f}'} | {row['n']} | {1e3 * row['cpu_s_per_frame']:.1f} | "
            f"{row['peak_rss_mb']:.0f} | {dropped} |"
        )
    return "\n".join(lines)


def limits() -> str:
    """What the runtime is held to."""
    report = _read("benchmarks/results/limits.json")
    lines = [
        f"{_model(report)}, {report['threads']} threads, {report['rate_hz']:g} images of "
        f"{'x'.join(map(str, report['camera_frame']))} a second.",
        _machine(report["environment"]),
        *_where((each["check"], f"{each['created'][:10]}, {each['cpu']}") for each in report["limits"]),
        "",
        "| | found | limit | | of |",
        "|---|---|---|---|---|",
    ]
    for limit in report["limits"]:
        asked = "" if limit["limit"] is None else f"{limit['limit']:.4g} {limit['unit']}"
        verdict = "" if limit["limit"] is None else "met" if limit["met"] else "**missed**"
        found = f"{round(limit['value'], 6) + 0.0:.3g} {limit['unit']}"
        lines.append(f"| {limit['check']}: {limit['what']} | {found} | {asked} | {verdict} | {limit['of']} |")
    return "\n".join(lines)


def updates() -> str:
    """What the gate lets pass, and what a delta saves."""
    gate = _read("benchmarks/results/gate.json")
    ratio = 1 + gate["settings"]["test"]["margin"]
    row = gate["rows"][0]
    lines = [
        f"Candidates beside the model that serves: {row['trials']} comparisons each, on frames of their own;",
        f"at most {ratio:g} x its prediction error is allowed. What a candidate costs is measured over",
        f"{row['episodes']} episodes in closed loop (`benchmarks/gate.py`).",
        "",
        "| candidate | accepted | error, x that of what serves | goals reached |",
        "|---|---|---|---|",
    ]
    names = {"itself": "the model itself", "int8": "its INT8 form", "retrain": "a retrain, other seed"}
    for row in gate["rows"]:
        noise = f"noise on the predictor's weights,{row['name'].removeprefix('noise')} of their RMS"
        name = names.get(row["name"], noise)
        goals = f"{row['goals'] / row['episodes']:.1%}"
        lines.append(
            f"| {name} | {row['accepted']} of {row['trials']} | {row['error_ratio']['mean']:.2f} | {goals} |"
        )
    broken, swaps = _read("benchmarks/results/robustness.json"), _read("benchmarks/results/swaps.json")
    inside, between = swaps["in_exchanges"], swaps["between_them"]
    grown = next(limit["value"] for limit in swaps["limits"] if limit["what"] == "of rss")
    times = inside["p99"]["value"] / between["p99"]["value"]
    crashes, power, fuzzing = (broken[part] for part in ("crashes", "power", "fuzzing"))
    found = sum(part["findings"] for part in (crashes, power, fuzzing))
    return "\n".join(
        [
            *lines,
            "",
            *_power(),
            "",
            *_deltas(),
            "",
            f"{swaps['swaps']} exchanges under {swaps['rate_hz']:g} images a second: {inside['lost']} of"
            f" {inside['n']} images lost; p99 of the response {inside['p99']['value']:.1f} ms, of the"
            f" {between['n']} between them {between['p99']['value']:.1f} ms ({times:.2f} x, asked for: 1.5);"
            f" the node grew by {grown:.1f} MB (asked for: 3; {_processor(_cpu(swaps))};"
            " `benchmarks/swaps.py`).",
            "",
            f"Whole updates and ways back, killed or failed (ENOSPC, EIO) at {crashes['points']} system"
            f" calls, cut off from power on ext4 at {power['points']};",
            f"what a robot reads, fuzzed {fuzzing['executions']} times:"
            f" {found} findings left (`tests/update/campaigns`, `tests/update/fuzz`).",
        ]
    )


def _power() -> list[str]:
    """How often the gate's test errs."""
    rows = _read("benchmarks/results/gate_power.json")["rows"]
    lines = [
        f"The same test on made-up scores, {rows[0]['runs']} runs each (`benchmarks/gate_power.py`). What is",
        "as bad as is just allowed may be accepted in one of a hundred first comparisons, and in one",
        "more by all comparisons that follow. Correlation: of neighbouring frames;",
        "at 0.998 they stay alike for longer than a block of the test, and it errs more often than stated.",
        "",
        "| candidate | correlation | accepted | shown to be worse | frames, median |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ends = [f"{row[end] / row['runs']:.1%} ({_range(found)})" for end, found in row["intervals"].items()]
        cells = [row["candidate"], f"{row['correlation']:g}", *ends, f"{row['median_frames']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _range(found: list[float]) -> str:
    low, high = found
    return f"{low:.1%} to {high:.1%}"


def _deltas() -> list[str]:
    """What deltas save."""
    report = _read("benchmarks/results/deltas.json")
    cases = report["cases"]
    names = list(cases[0]["methods"])
    lines = [
        "One INT8 model to the next: MB that a robot fetches (ms to make, apply, medians of"
        f" {report['rounds']};",
        f"{_processor(report['machine']['cpu'])}; `benchmarks/deltas.py`).",
        "",
        f"| | MB that differ | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for case in cases:
        told = [
            f"{of['bytes'] / 1e6:.2f} ({1e3 * of['pack_s']:.0f}, {1e3 * of['unpack_s']:.0f})"
            for of in case["methods"].values()
        ]
        lines.append(f"| {case['case']} | {case['bytes'] / 1e6:.2f} | {' | '.join(told)} |")
    return lines


def students() -> str:
    """What the members of the family weigh, compute and take."""
    report = _read("benchmarks/results/students.json")
    ways = {
        ("pipeline", "int8"): "ours INT8", ("encoder", "int8"): "alone INT8",
        ("benchmark_app", "int8"): "benchmark_app INT8", ("pipeline", "fp32"): "ours fp32",
        ("torch_eager", "fp32"): "torch eager",
        ("torch_compile", "fp32"): "torch.compile", ("onnxruntime", "fp32"): "onnxruntime",
    }  # fmt: skip
    counts = {
        row["stages_ms"]["encode"]["n"] for each in report["students"] for row in each["latency"]["rows"]
    }
    lines = [
        f"With random weights at {report['px']} px; encoder; predictor of 64 futures of 8 steps. Times are",
        f"medians in ms of {' or '.join(map(str, sorted(counts)))} frames on {report['threads']} threads"
        " (`benchmarks/students.py`).",
        _machine(report["environment"]),
        "Alone: our encoder with nothing between its frames, as benchmark_app has each graph.",
        "NPU: what the cost model of Intel's compiler expects of the encoder, an estimate.",
        "",
        "| | M parameters | G multiply-adds | MB INT8 | MB fp32 | "
        f"{' | '.join(ways.values())} | NPU 3720; 4000; 5010 |",
        "|" + "---|" * (6 + len(ways)),
    ]
    for member in report["students"]:
        rows = {(row["row"], row["precision"]): row["stages_ms"] for row in member["latency"]["rows"]}
        cells = [member["name"]]
        for of, scale in ((member["parameters"], 1e6), (member["multiply_adds"], 1e9)):
            cells.append(f"{of['encoder'] / scale:.1f}; {of['predictor'] / scale:.1f}")
        cells += [f"{member['bytes'][precision] / 1e6:.1f}" for precision in ("int8", "fp32")]
        cells += [
            "; ".join(
                f"{rows[way][stage]['p50']:.1f}" for stage in ("encode", "predict") if stage in rows[way]
            )
            for way in ways
        ]
        cells.append("; ".join(f"{value:.2f}" for value in member["npu_estimates_ms"].values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def distilled() -> str:
    """What a distillation in Two Rooms kept."""
    report = _read("benchmarks/results/distil.json")
    teacher, machine = report["teacher"], report["closed_loop"]["machine"]
    lines = [
        "Two Rooms: a vision transformer trained from nothing, and what was distilled from it alone, on",
        f"layouts that neither was trained on ({_processor(machine['cpu'])}):",
        "",
        "| | goals reached | episodes | M multiply-adds: a frame | 64 futures of 8 steps |",
        "|---|---|---|---|---|",
    ]
    rows = [
        ("teacher, fp32", teacher, "fp32"),
        ("student, fp32", report, "fp32"),
        ("student, INT8", report, "int8"),
    ]
    for name, of, precision in rows:
        score, work = of["closed_loop"]["scores"][precision], of["multiply_adds"]
        lines.append(
            f"| {name} | {score['rate']:.1%} ({_range(score['interval'])}) | {score['episodes']} | "
            f"{work['encoder'] / 1e6:.1f} | {work['predictor'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def trusted() -> str:
    """How well bounds hold, and what is noticed."""
    report = _read("benchmarks/results/calibration.json")
    surprise = report["surprise"]
    lines = [
        f"Two Rooms, layouts never trained on, {report['engine']}; {report['runs']} runs with each change",
        f"({_processor(report['machine']['cpu'])}; `benchmarks/calibration.py`).",
        "",
        f"| bounds stated with {report['probability']:.0%}, points off at the worst horizon | "
        f"{' | '.join(_PARTS.values())} |",
        "|---" * (1 + len(_PARTS)) + "|",
    ]
    for change, parts in report["coverage"].items():
        points = [f"{parts['farthest_points'][part]:.1f}" for part in _PARTS]
        lines.append(f"| {change} | {' | '.join(points)} |")
    lines += ["", "| event | AUROC | alarm before it is a horizon old |", "|---|---|---|"]
    for event, row in surprise["events"].items():
        low, high = row["interval"]
        lines.append(
            f"| {event} | {row['auroc']:.3f} ({low:.3f} to {high:.3f}) | {row['alarmed']} of {row['runs']} |"
        )
    counts = " and ".join(f"{count} of {kind}" for kind, count in surprise["false_alarms"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"False alarms in {surprise['normal_seconds_watched']:.0f} s of normal driving: {counts};"
            f" stated: at most {surprise['stated_at_most_of_each']:.1f} of each.",
        ]
    )


def lewm() -> str:
    """LeWM's planning problem."""
    report = _read("benchmarks/results/lewm.json")
    count, horizon, _ = report["candidates"]
    plans = [limit for limit in report["limits"] if limit["check"] == "plan"]
    student, ours = (limit["value"] for limit in plans)
    sizes = {name: f"{number / 1e6:.1f} million" for name, number in report["parameters"].items()}
    alone = report["iterations"] * report["products_ms"]["int8"]["p50"] / 1e3
    left = [f"{of['distance']['mean']:.2%} by {name}" for name, of in report["parity"]["left"].items()]
    lines = [
        f"LeWM's planning problem: {count} candidates of {horizon} steps, {report['iterations']} iterations,"
        f" by its predictor (ours and loop, {sizes['ours']} parameters) and by a student's of its size"
        f" ({sizes['student']}), trained alike.",
        _machine(report["environment"]),
        "",
        "| futures of one iteration | p50 ms | p95 ms | n |",
        "|---|---|---|---|",
    ]
    rows = report["iteration_ms"] | {
        f"matrix products of ours alone, {name}": of for name, of in report["products_ms"].items()
    }
    lines += [f"| {name} | {of['p50']:.1f} | {of['p95']:.1f} | {of['n']} |" for name, of in rows.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"A whole plan in INT8 takes {student:.2f} s by the student's predictor, {ours:.2f} s by LeWM's"
            f" (medians of {plans[0]['of']}), of which its matrix products alone take {alone:.2f} s; asked"
            f" for: {plans[0]['limit']:.2f} s, which its authors report of a GPU. Left of the way to the"
            f" goal, means of {report['parity']['problems']} problems: {', '.join(left)}.",
        ]
    )


TABLES = {
    "measured": measured, "latency": latency, "limits": limits, "updates": updates, "students": students,
    "distilled": distilled, "trusted": trusted, "lewm": lewm,
}  # fmt: skip


def main() -> int:
    """Print the tables, or put them into the README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="put them into the README")
    if not parser.parse_args().write:
        print("\n\n".join(table() for table in TABLES.values()))
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    readme.write_text(text, encoding="utf-8")
    return 0


def _spread(summary: dict[str, Any]) -> str:
    return ", ".join(f"{name} {summary[name]:.1f}" for name in ("p50", "p95", "p99")) + " ms"


def _model(report: dict[str, Any]) -> str:
    width, height = report["model_frame"]
    futures = f"{report['candidates']} futures of {report['horizon']} steps"
    return f"{report['bundle']['id']} with random weights at {width}x{height}, {futures}"


def _machine(environment: dict[str, Any]) -> str:
    versions = environment["versions"]
    named = ("python", "openvino", "onnxruntime", "torch")
    software = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
    return f"{environment['cpu']}, {environment['cores']} cores that others share; {software}."


def _cpu(report: dict[str, Any]) -> dict[str, Any]:
    """The processor of a report that has a profile's environment, as reports with a machine have it."""
    return {"model": report["environment"]["cpu"], "cores": report["environment"]["cores"]}


def _processor(cpu: dict[str, Any]) -> str:
    return f"{cpu['model']}, {cpu['cores']} cores"


def _where(measured: Iterable[tuple[str, str]]) -> list[str]:
    """What was measured where, a line for each place."""
    places: dict[str, dict[str, None]] = {}
    for what, where in measured:
        places.setdefault(where, {})[what] = None
    return [f"{', '.join(names)}: {where}." for where, names in places.items()]


def _read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
