"""Tables about updates over the air: the gate, deltas, swaps and robustness."""

from __future__ import annotations

from readme_tables.words import cpu, processor, read, span


def updates() -> str:
    """Return the results of the gate, of deltas, of swaps and of the robustness campaigns."""
    gate = read("gate")
    ratio = 1 + gate["settings"]["test"]["margin"]
    row = gate["rows"][0]
    lines = [
        f"Candidates next to the active model: {row['trials']} comparisons each, on separate frames;",
        f"at most {ratio:g} x its prediction error is allowed. What a candidate costs is measured over",
        f"{row['episodes']} episodes in closed loop (`benchmarks/gate.py`).",
        "",
        "| candidate | accepted | error, x that of the active model | goals reached |",
        "|---|---|---|---|",
    ]
    names = {
        "itself": "the model itself",
        "int8": "its INT8 variant",
        "retrain": "retrained with another seed",
    }
    for row in gate["rows"]:
        noise = f"noise on the predictor's weights,{row['name'].removeprefix('noise')} of their RMS"
        name = names.get(row["name"], noise)
        goals = f"{row['goals'] / row['episodes']:.1%}"
        lines.append(
            f"| {name} | {row['accepted']} of {row['trials']} | {row['error_ratio']['mean']:.2f} | {goals} |"
        )
    broken, swaps = read("robustness"), read("swaps")
    inside, between = swaps["during_swaps"], swaps["between_swaps"]
    grown = next(limit["value"] for limit in swaps["limits"] if limit["metric"] == "of rss")
    times = inside["p99"]["value"] / between["p99"]["value"]
    crashes, power, fuzzing = (broken[part] for part in ("crashes", "power", "fuzzing"))
    findings = sum(part["findings"] for part in (crashes, power, fuzzing))
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
            f"{swaps['swaps']} swaps under {swaps['rate_hz']:g} images per second: {inside['lost']} of"
            f" {inside['n']} images lost; p99 of the response {inside['p99']['value']:.1f} ms, of the"
            f" {between['n']} between them {between['p99']['value']:.1f} ms ({times:.2f} x, limit 1.5);"
            f" the node grew by {grown:.1f} MB (limit 3; {processor(cpu(swaps))};"
            " `benchmarks/swaps.py`).",
            "",
            f"Complete updates and rollbacks (with fakes of the engine and the server), killed or failed"
            f" (ENOSPC, EIO) at {crashes['points']} system calls ({crashes['on']}), with power cuts on"
            f" ext4 at {power['points']} ({power['on']});",
            f"input of a robot fuzzed {fuzzing['executions']} times ({fuzzing['on']}):"
            f" {findings} open findings (`tests/ota/campaigns`, `tests/ota/fuzz`).",
        ]
    )


def _power() -> list[str]:
    """Return the error rates of the gate's test."""
    rows = read("gate_power")["rows"]
    lines = [
        f"The same test on synthetic scores, {rows[0]['runs']} runs each (`benchmarks/gate_power.py`).",
        "A candidate exactly as bad as allowed may be accepted in one of a hundred first comparisons, and in",
        "one more by all later comparisons. Correlation: between consecutive frames; at 0.998 they are",
        "similar for longer than a block of the test, which then errs more often than its nominal rate.",
        "",
        "| candidate | correlation | accepted | shown to be worse | frames, median |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        rates = [
            f"{row[verdict] / row['runs']:.1%} ({span(interval)})"
            for verdict, interval in row["intervals"].items()
        ]
        cells = [row["candidate"], f"{row['correlation']:g}", *rates, f"{row['median_frames']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _latency() -> list[str]:
    """Return the error rates of the latency probe under load."""
    report = read("gate_latency")
    rows = report["rows"]
    lines = [
        f"Latency budget of {report['budget_ms']:.2f} ms, {report['headroom']:g} x the p99 of the active"
        " model, next to processes that compute",
        f"constantly and other activity of the machine; {rows[0]['trials']} probes each, passed / rejected /"
        " undecided",
        f"({processor(cpu(report))}; `benchmarks/gate_latency.py`).",
        "",
        "| busy processes | CPU used by others | time of a candidate's frame | wall-clock p99, ms "
        "| p99 of CPU time, ms | as shipped | without an active model | by wall clock only |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        verdicts = [
            " / ".join(
                str(row["verdicts"][method][verdict]) for verdict in ("passed", "rejected", "undecided")
            )
            for method in ("compared", "alone", "clock")
        ]
        name = "unchanged" if row["factor"] == 1 else f"{row['factor']:g} x"
        figures = f"{row['clock_p99_ms']:.1f} | {row['cost_p99_ms']:.2f}"
        lines.append(
            f"| {row['busy_processes']} | {row['others']:.0%} | {name} | {figures} | {' | '.join(verdicts)} |"
        )
    return lines


def _deltas() -> list[str]:
    """Return the savings of deltas."""
    report = read("deltas")
    cases = report["cases"]
    names = list(cases[0]["methods"])
    lines = [
        "Updates between INT8 models: MB downloaded by a robot (ms to create and to apply, medians of"
        f" {report['rounds']};",
        f"{processor(report['machine']['cpu'])}; `benchmarks/deltas.py`).",
        "",
        f"| | changed files, MB | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for case in cases:
        reported = [
            f"{of['bytes'] / 1e6:.2f} ({1e3 * of['pack_s']:.0f}, {1e3 * of['unpack_s']:.0f})"
            for of in case["methods"].values()
        ]
        lines.append(f"| {case['case']} | {case['bytes'] / 1e6:.2f} | {' | '.join(reported)} |")
    return lines
