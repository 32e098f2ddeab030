"""What updates over the air let pass, cost and withstand."""

from __future__ import annotations

from readme_tables.words import cpu, processor, read, span


def updates() -> str:
    """What the gate lets pass, and what a delta saves."""
    gate = read("gate")
    ratio = 1 + gate["settings"]["test"]["margin"]
    row = gate["rows"][0]
    lines = [
        f"Candidates next to the active model: {row['trials']} comparisons each, on frames of their own;",
        f"at most {ratio:g} x its prediction error is allowed. What a candidate costs is measured over",
        f"{row['episodes']} episodes in closed loop (`benchmarks/gate.py`).",
        "",
        "| candidate | accepted | error, x that of the active model | goals reached |",
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
    broken, swaps = read("robustness"), read("swaps")
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
            *_latency(),
            "",
            *_deltas(),
            "",
            f"{swaps['swaps']} exchanges under {swaps['rate_hz']:g} images a second: {inside['lost']} of"
            f" {inside['n']} images lost; p99 of the response {inside['p99']['value']:.1f} ms, of the"
            f" {between['n']} between them {between['p99']['value']:.1f} ms ({times:.2f} x, asked for: 1.5);"
            f" the node grew by {grown:.1f} MB (asked for: 3; {processor(cpu(swaps))};"
            " `benchmarks/swaps.py`).",
            "",
            f"Whole updates and rollbacks (stand-ins for the engine and the server), killed or failed"
            f" (ENOSPC, EIO) at {crashes['points']} system calls ({crashes['on']}), cut off from power on"
            f" ext4 at {power['points']} ({power['on']});",
            f"what a robot reads, fuzzed {fuzzing['executions']} times ({fuzzing['on']}):"
            f" {found} findings left (`tests/ota/campaigns`, `tests/ota/fuzz`).",
        ]
    )


def _power() -> list[str]:
    """How often the gate's test errs."""
    rows = read("gate_power")["rows"]
    lines = [
        f"The same test on made-up scores, {rows[0]['runs']} runs each (`benchmarks/gate_power.py`). What is",
        "as bad as is just allowed may be accepted in one of a hundred first comparisons, and in one",
        "more by all comparisons that follow. Correlation: of neighboring frames;",
        "at 0.998 they stay alike for longer than a block of the test, and it errs more often than stated.",
        "",
        "| candidate | correlation | accepted | shown to be worse | frames, median |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ends = [f"{row[end] / row['runs']:.1%} ({span(found)})" for end, found in row["intervals"].items()]
        cells = [row["candidate"], f"{row['correlation']:g}", *ends, f"{row['median_frames']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _latency() -> list[str]:
    """How often the latency budget of the probe errs under load."""
    report = read("gate_latency")
    rows = report["rows"]
    lines = [
        f"Latency budget of {report['budget_ms']:.2f} ms, {report['headroom']:g} x the p99 of the active"
        " model, next to processes that compute",
        f"without end and whatever else the machine does; {rows[0]['trials']} probes each, passed / refused /"
        " undecided",
        f"({processor(cpu(report))}; `benchmarks/gate_latency.py`).",
        "",
        "| busy processes | others use, of the processors | candidate's frames | p99 by the clock, ms "
        "| of processor time, ms | as shipped | without an active model | by the clock alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ends = [
            " / ".join(str(row["ends"][way][end]) for end in ("passed", "refused", "undecided"))
            for way in ("compared", "alone", "clock")
        ]
        name = "as long" if row["factor"] == 1 else f"{row['factor']:g} x as long"
        figures = f"{row['clock_p99_ms']:.1f} | {row['cost_p99_ms']:.2f}"
        lines.append(f"| {row['hogs']} | {row['others']:.0%} | {name} | {figures} | {' | '.join(ends)} |")
    return lines


def _deltas() -> list[str]:
    """What deltas save."""
    report = read("deltas")
    cases = report["cases"]
    names = list(cases[0]["methods"])
    lines = [
        "One INT8 model to the next: MB that a robot fetches (ms to make, apply, medians of"
        f" {report['rounds']};",
        f"{processor(report['machine']['cpu'])}; `benchmarks/deltas.py`).",
        "",
        f"| | MB that differ | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for case in cases:
        reported = [
            f"{of['bytes'] / 1e6:.2f} ({1e3 * of['pack_s']:.0f}, {1e3 * of['unpack_s']:.0f})"
            for of in case["methods"].values()
        ]
        lines.append(f"| {case['case']} | {case['bytes'] / 1e6:.2f} | {' | '.join(reported)} |")
    return lines
