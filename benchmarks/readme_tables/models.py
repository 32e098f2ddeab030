"""Tables about the models: students, distillation, error bounds and surprise."""

from __future__ import annotations

from typing import Any

from readme_tables.words import cpu, machine, processor, read, read_by_processor, read_by_world, span


def students() -> str:
    """Return size, compute and latency of the students, one table per processor."""
    lines = [
        "With random weights; encoder; predictor of 64 futures of 8 steps. Times are medians in ms",
        "(`benchmarks/students.py`). Alone: our encoder without other work between its frames, like each "
        "graph in",
        "benchmark_app. NPU: latency of the encoder estimated by the cost model of Intel's compiler.",
    ]
    return "\n\n".join(["\n".join(lines), *map(_students, read_by_processor("students"))])


def _students(report: dict[str, Any]) -> str:
    columns = {
        ("pipeline", "int8"): "ours INT8", ("encoder", "int8"): "alone INT8",
        ("benchmark_app", "int8"): "benchmark_app INT8", ("pipeline", "fp32"): "ours fp32",
        ("torch_eager", "fp32"): "torch eager",
        ("torch_compile", "fp32"): "torch.compile", ("onnxruntime", "fp32"): "onnxruntime",
    }  # fmt: skip
    counts = {
        row["stages_ms"]["encode"]["n"] for each in report["students"] for row in each["latency"]["rows"]
    }
    lines = [
        machine(report["environment"]),
        f"{report['px']} px, {' or '.join(map(str, sorted(counts)))} frames on {report['threads']} threads.",
        "",
        "| | M parameters | G multiply-adds | MB INT8 | MB fp32 | "
        f"{' | '.join(columns.values())} | NPU 3720; 4000; 5010 |",
        "|" + "---|" * (6 + len(columns)),
    ]
    for member in report["students"]:
        rows = {(row["row"], row["precision"]): row["stages_ms"] for row in member["latency"]["rows"]}
        cells = [member["name"]]
        for counted, scale in ((member["parameters"], 1e6), (member["multiply_adds"], 1e9)):
            cells.append(f"{counted['encoder'] / scale:.1f}; {counted['predictor'] / scale:.1f}")
        cells += [f"{member['bytes'][precision] / 1e6:.1f}" for precision in ("int8", "fp32")]
        cells += [
            "; ".join(
                f"{rows[column][stage]['p50']:.1f}"
                for stage in ("encode", "predict")
                if stage in rows[column]
            )
            for column in columns
        ]
        cells.append("; ".join(f"{value:.2f}" for value in member["npu_estimates_ms"].values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def charged_worlds() -> list[dict[str, Any]]:
    """Return the reports of time_charged.py in first-person rooms, by level."""
    return read_by_world("time_charged")


def time_charged() -> str:
    """Return goals reached against latency in Two Rooms."""
    return _charged(read("time_charged"))


def first_person_time_charged() -> str:
    """Return goals reached against latency in first-person rooms."""
    return "\n\n".join(map(_charged, charged_worlds())) or "No bundle has been measured yet."


_CHARGED = {
    "late": "images {} ms late",
    "thinking": "decisions of {} ms",
    "disturbed": "images 100 ms late, {}",
    "profile": "decisions as in {}",
    "estimate": "decisions as estimated for NPU {}",
}


def _charged(report: dict[str, Any]) -> str:
    """Return a table of one report of time_charged.py."""
    names = list(dict.fromkeys(row["driver"] for row in report["rows"]))
    cells = {(row["kind"], row["latency"], row["driver"]): row for row in report["rows"]}
    episodes = sorted({row["episodes"] for row in report["rows"]})
    machine_cpu = cpu({"environment": report["machine"]})
    lines = [
        f"{report['world']}; {report['model']} in {report['precision']}; "
        f"{' or '.join(map(str, episodes))} held-out",
        "episodes, the same for all (`benchmarks/time_charged.py`). The latencies are given, not those of",
        f"the machine ({processor(machine_cpu)}). Goals reached, with 95 % intervals:",
        "",
        f"| latency | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
    ]
    kinds = list(_CHARGED)
    for kind, latency in sorted(
        {(row["kind"], row["latency"]): None for row in report["rows"]},
        key=lambda cell: (kinds.index(cell[0]), float(cell[1]) if cell[0] in ("late", "thinking") else 0.0),
    ):
        rates = [cells.get((kind, latency, name)) for name in names]
        shown = ["" if row is None else f"{row['rate']:.1%} ({span(row['interval'])})" for row in rates]
        lines.append(f"| {_CHARGED[kind].format(latency)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def clips() -> str:
    """Return what stills, clips and a causal encoder of one teacher know of motion, cost and reproduce."""
    report = read("clips")
    encoder, frames, probe = report["network"]["encoder"], report["frames"], report["probe"]
    (published,) = (name for name in report["rows"][0]["multiply_adds"] if name != "small")
    patches, versions = (encoder["px"] // encoder["patch"]) ** 2, report["machine"]["versions"]
    lines = [
        f"Small network: {encoder['depth']} blocks, width {encoder['width']}, {patches} tokens per step, "
        f"random weights; N = {frames}.",
        f"Times are of one thread of OpenVINO {versions['openvino']} on "
        f"{processor(report['machine']['cpu'])}, shared with other processes;",
        f"the three were called in turn, {report['rows'][0]['call_ms']['n']} times each.",
        f"Motion: accuracy of the linear probe on {probe['images'] // 2} held-out images (chance: "
        f"{probe['chance']:.0%}). Parity: worst cosine and largest difference to torch of the golden",
        "latents (`benchmarks/clips.py`).",
        "",
        f"| `--time` | calls per second | {published}: G multiply-adds per call; per second | small network: "
        "motion | ms per call, p50; p99 | ms per second | parity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        rate, took, parity = row["calls_per_s"], row["call_ms"], row["parity"]
        name = row["time"] if row["time"] == "still" else f"{row['time']}:{frames}"
        per_call = row["multiply_adds"][published] / 1e9
        lines.append(
            f"| `{name}` | {rate:g} | {per_call:.1f}; {per_call * rate:.0f} | {row['probe_accuracy']:.0%} | "
            f"{took['p50']:.1f}; {took['p99']:.1f} | {took['p50'] * rate:.0f} | {parity['min_cosine']:.6f}; "
            f"{parity['max_abs']:.1g} |"
        )
    return "\n".join(lines)


def distilled() -> str:
    """Return the results of a distillation in Two Rooms."""
    report = read("distill")
    teacher, machine = report["teacher"], report["closed_loop"]["machine"]
    lines = [
        "Two Rooms: a vision transformer trained from scratch, and a student distilled from it alone, on",
        f"layouts that neither was trained on ({processor(machine['cpu'])}):",
        "",
        "| | goals reached | episodes | M multiply-adds per frame | per 64 futures of 8 steps |",
        "|---|---|---|---|---|",
    ]
    rows = [
        ("teacher, fp32", teacher, "fp32"),
        ("student, fp32", report, "fp32"),
        ("student, INT8", report, "int8"),
    ]
    for name, entry, precision in rows:
        score, work = entry["closed_loop"]["scores"][precision], entry["multiply_adds"]
        lines.append(
            f"| {name} | {score['rate']:.1%} ({span(score['interval'])}) | {score['episodes']} | "
            f"{work['encoder'] / 1e6:.1f} | {work['predictor'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


_PARTS = {
    "first_50_after": "steps 1 to 50 after a change",
    "from_50_to_100_after": "50 to 100",
    "from_100_to_400_after": "100 to 400",
}


def _adapted(report: dict[str, Any]) -> list[str]:
    """Return the deviation of the coverage while driving, after each change."""
    lines = [
        f"| driving, target {report['probability']:.0%}: deviation at the worst horizon, points | "
        f"{' | '.join(_PARTS.values())} |",
        "|---" * (1 + len(_PARTS)) + "|",
    ]
    for change, parts in report["changes"].items():
        points = " | ".join(f"{parts['max_deviation_points'][part]:.1f}" for part in _PARTS)
        lines.append(f"| {change}, {parts['runs']} runs | {points} |")
    return lines


def _coverage(report: dict[str, Any], driving: dict[str, Any], demo: dict[str, Any]) -> list[str]:
    """Return the coverage of each horizon while the planner drives, in the demo, and while wandering."""
    driven, wandering = driving["coverage"], report["wandering"]
    probability, limit = driving["probability"], f"{wandering['settling_limit_s']:g} s"
    rows = {
        f"the planner drives, {driving['nodes']['episodes']} episodes, {_errors(driven)}": _values(driven),
        "the same, bounds of the bundle without adaptation": _values(driven, "coverage_of_the_bundle"),
    }
    if "error_bounds" in demo:
        shown = demo["error_bounds"]
        rows[f"`make demo DEMO=two_rooms`, {max(shown['errors'])} errors"] = [
            within / errors for within, errors in zip(shown["within"], shown["errors"], strict=True)
        ]
    first = report["driving"]
    length = f"{first['steps'] * report['step_s']:g} s"
    rows[f"the planner drives, first {length} of {first['runs']} runs, {_errors(first['coverage'])}"] = (
        _values(first["coverage"])
    )
    for part, when in (("before_limit", f"first {limit}"), ("after_limit", f"after {limit}")):
        rows[f"wandering, {when}, {_errors(wandering[part])}"] = _values(wandering[part])
    steps = [str(row["horizon"]) for row in driven]
    lines = [
        f"| coverage with target {probability:.0%}, by steps ahead | {' | '.join(steps)} |",
        "|---" * (1 + len(steps)) + "|",
    ]
    for name, values in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return lines


def _values(rows: list[dict[str, Any]], key: str = "coverage") -> list[float]:
    return [row[key] for row in rows]


def _errors(rows: list[dict[str, Any]]) -> str:
    return f"{max(row['errors'] for row in rows)} errors"


def trusted() -> str:
    """Return the coverage of error bounds, and the detection of events."""
    report = read("calibration")
    surprise = report["surprise"]
    lines = [
        f"Two Rooms, held-out layouts, {report['engine']}",
        f"({processor(report['machine']['cpu'])}; `benchmarks/calibration.py`).",
        "",
        *_adapted(report),
    ]
    lines += ["", "| event | AUROC | alarm within a horizon |", "|---|---|---|"]
    for event, row in surprise["events"].items():
        low, high = row["interval"]
        lines.append(
            f"| {event} | {row['auroc']:.3f} ({low:.3f} to {high:.3f}) | {row['alarmed']} of {row['runs']} |"
        )
    counts = " and ".join(f"{count} of {kind}" for kind, count in surprise["false_alarms"].items())
    lines += ["", *_coverage(report, read("continuous_driving"), read("demo"))]
    settled = report["wandering"]["settled_after_s"]
    if settled is not None:
        lines += [
            "",
            f"Coverage while wandering is within 2 points of the target at each horizon after {settled:g} s.",
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"False alarms in {surprise['normal_s']:.0f} s of wandering: {counts};"
            f" expected: at most {surprise['max_expected_false_alarms']:.1f} of each.",
        ]
    )


def stable_worldmodel_two_room() -> str:
    """Return the goals reached in TwoRoom of stable-worldmodel."""
    return _stable_worldmodel("two_room")


def stable_worldmodel_reacher() -> str:
    """Return the goals reached in Reacher of stable-worldmodel."""
    return _stable_worldmodel("reacher")


def _stable_worldmodel(environment: str) -> str:
    """Return the goals reached under the evaluator of stable-worldmodel, one row per driver."""
    report = read(f"stable_worldmodel_{environment}")
    rates = {(row["pairs"], row["driver"]): row for row in report["rows"]}
    labels, planner, recordings = list(report["pairs"]), report["planner"], report["recordings"]
    drivers = list(dict.fromkeys(row["driver"] for row in report["rows"]))
    number = report["rows"][0]["episodes"]
    samples = next(iter(report["models"].values()))["samples"]
    lines = [
        f"{report['environment']} of stable-worldmodel {report['machine']['versions']['stable-worldmodel']}: "
        f"{number} pairs per set from {recordings['episodes']} recordings of {recordings['with']}, goals "
        "reached and Wilson 95% interval.",
        f"CEM of the package with {samples} samples and {planner['iterations']} iterations: "
        f"{planner['horizon']} blocks of {planner['block']} steps, planned again after "
        f"{planner['receding']}.",
        f"{processor(report['machine']['cpu'])}.",
        "",
        f"| | {' | '.join(labels)} |",
        "|" + "---|" * (1 + len(labels)),
    ]
    for driver in drivers:
        model = report["models"].get(driver)
        name = f"{driver}, {model['precision'].replace('int', 'INT')}" if model else driver
        cells = [
            f"{row['reached']} ({span(row['interval'])})"
            for row in (rates[label, driver] for label in labels)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
