"""Tables about the runtime: the demo, comparisons and limits."""

from __future__ import annotations

from statistics import median
from typing import Any

from readme_tables.words import (
    cpu,
    machine,
    model,
    processor,
    read,
    read_by_processor,
    span,
    spread,
    verdicts,
    where,
)

_DEMO = "`make demo DEMO=two_rooms`"


def measured() -> str:
    """Return the results of the demo's model."""
    demo = read("demo")
    overheads = read_by_processor("overhead")
    success = read("success")
    driving, e2e = read("continuous_driving"), demo["e2e_ms"]
    published, dropped = demo["frames_published"], demo["frames_dropped"]
    encode, predict = demo["encode_ms"], demo["predict_ms"]
    futures = f"{demo['futures_per_frame']} futures of {demo['horizon']} steps"
    rows = [
        ("image stamp to futures in another process", spread(e2e), f"{e2e['n']} images, {_DEMO}"),
        ("images dropped at 30 Hz", f"{dropped} of {published}", _DEMO),
        (
            f"encode; predict {futures}",
            f"p50 {encode['p50']:.1f} ms; {predict['p50']:.1f} ms, inside the demo",
            f"{encode['n']} images, {_DEMO}",
        ),
        ("goals reached in the demo", f"{demo['successes']} of {demo['episodes']}", _DEMO),
        ("peak memory of the node, including its start", f"{demo['rss_mb']:.0f} MB", _DEMO),
        *(
            (
                f"pipeline / OpenVINO's benchmark_app, same graphs, {each['machine']['cpu']['model']}",
                f"{each['ratio']:.2f} x",
                f"{each['pipeline_ms']['encode']['n']} frames, `benchmarks/overhead.py`",
            )
            for each in overheads
        ),
    ]
    names = {
        "fp32": "goals reached, fp32",
        "int8": "goals reached, INT8",
        "torch_cem": "goals reached, plain PyTorch CEM with the same settings, one full plan per step",
    }
    for name, score in success["scores"].items():
        shown = f"{score['rate']:.1%} ({span(score['interval'])})"
        metric = names.get(name, f"goals reached, {name.replace('_', ' ')} baseline")
        rows.append((metric, shown, f"{score['episodes']} held-out episodes, `benchmarks/success.py`"))
    driven = driving["nodes"]
    shown = f"{driven['rate']:.1%} ({span(driven['interval'])})"
    episodes = f"{driven['episodes']} held-out episodes without a restart, `benchmarks/continuous_driving.py`"
    rows.append(("goals reached by a robot that runs for all episodes, INT8", shown, episodes))
    alarms, stated = (
        driving["alarms"],
        driving["driven_s"] / driving["false_alarm_every_s"],
    )
    false = " and ".join(f"{number} of {kind}" for kind, number in alarms.items())
    rows.append(
        (
            "false alarms of that robot",
            f"{false} in {driving['driven_s']:.0f} s; expected: at most {stated:.1f} of each",
            "in these episodes",
        )
    )
    planning = success["scores"]["int8"]
    rows.append(
        (
            "from an image to its command (encode, one iteration of 64 x 8), INT8, one thread",
            f"p50 {planning['plan_ms_p50']:.1f} ms",
            f"{planning['episodes']} episodes, load average {success['machine']['load_average']:.1f}, "
            "`benchmarks/success.py`",
        )
    )
    if ratio := success.get("plan_time_ratio"):
        rows.append(
            (
                "time of the PyTorch CEM per model step, x ours",
                f"{ratio['int8']:.1f} x INT8, {ratio['fp32']:.1f} x fp32",
                "`benchmarks/success.py`, in the same episodes",
            )
        )
    versions = demo["versions"]
    software = ", ".join(f"{name} {versions[name]}" for name in ("python", "openvino", "numpy"))
    lines = [
        *where(
            {
                _DEMO: processor(demo["cpu"]),
                "`benchmarks/success.py`": processor(success["machine"]["cpu"]),
                "`benchmarks/continuous_driving.py`": processor(cpu(driving)),
            }.items()
        ),
        f"{_DEMO}: {versions['system']}, ROS 2 {versions['ros']}, {software}.",
        "Shared cores, no GPU, no NPU. Intervals are 95 % (Wilson).",
        "",
        "| metric | measured | samples |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {metric} | {value} | {samples} |" for metric, value, samples in rows)])


def latency() -> str:
    """Return the comparison of libraries for each processor."""
    return "\n\n".join(map(_comparison, read_by_processor("latency")))


def _comparison(report: dict[str, Any]) -> str:
    lines = [
        f"{model(report)}, {report['threads']} threads, {report['rounds']} alternating rounds; "
        "`benchmark_app` reports only the median of a run.",
        machine(report["environment"]),
        "",
        "| | | p50 ms | encode | p99 ms | n | CPU ms per frame | memory MB | dropped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        dropped = f"{row['dropped']} of {row['due']}" if "dropped" in row else ""
        p99 = row["p99_ms"]["value"]
        encode = row["stages_ms"].get("encode")
        cells = (
            row["label"],
            row["precision"],
            f"{row['p50_ms']['value']:.1f}",
            "" if encode is None else f"{encode['p50']:.1f}",
            "" if p99 is None else f"{p99:.1f}",
            str(row["n"]),
            f"{1e3 * row['cpu_s_per_frame']:.1f}",
            f"{row['peak_rss_mb']:.0f}",
            dropped,
        )
        lines.append(f"| {' | '.join(cells)} |")
    reasons: dict[str, list[str]] = {}
    for row in report["absent"]:
        reasons.setdefault(row["reason"], []).append(f"`{row['row']}` {row['precision']}")
    if reasons:
        reported = "; ".join(f"{', '.join(rows)}: {reason}" for reason, rows in reasons.items())
        lines += ["", f"Absent: {reported}."]
    return "\n".join(lines)


def limits() -> str:
    """Return the limits of the runtime."""
    report = read("limits")
    lines = [
        f"{model(report)}, {report['threads']} threads, {report['rate_hz']:g} images of "
        f"{'x'.join(map(str, report['camera_frame']))} per second.",
        machine(report["environment"]),
        *where((each["check"], f"{each['created'][:10]}, {each['cpu']}") for each in report["limits"]),
        "",
    ]
    return "\n".join([*lines, *verdicts(report["limits"])])


def lewm() -> str:
    """Return the results of LeWM's planning problem."""
    report = read("lewm")
    count, horizon, _ = report["candidates"]
    plans = [limit for limit in report["limits"] if limit["check"] == "plan"]
    student, ours = (limit["value"] for limit in plans)
    sizes = {name: f"{number / 1e6:.1f} million" for name, number in report["parameters"].items()}
    alone = report["iterations"] * report["products_ms"]["int8"]["p50"] / 1e3
    anytime = report["parity"]["anytime"]
    remaining = [
        f"{of['distance']['mean']:.2%} with {name}" for name, of in report["parity"]["remaining"].items()
    ]
    lines = [
        f"LeWM's planning problem: {count} candidates of {horizon} steps, {report['iterations']} iterations,"
        f" with its predictor (ours and loop, {sizes['ours']} parameters) and a student's of the same size"
        f" ({sizes['student']}), trained on the same data.",
        machine(report["environment"]),
        "",
        "| futures of one iteration | p50 ms | p95 ms | n |",
        "|---|---|---|---|",
    ]
    rows = report["iteration_ms"] | {
        f"matrix products of ours only, {name}": of for name, of in report["products_ms"].items()
    }
    lines += [f"| {name} | {of['p50']:.1f} | {of['p95']:.1f} | {of['n']} |" for name, of in rows.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"A complete plan in INT8 takes {student:.2f} s with the student's predictor, {ours:.2f} s with"
            f" LeWM's (medians of {plans[0]['samples']}), of which its matrix products alone take"
            f" {alone:.2f} s; the limit is {plans[0]['limit']:.2f} s, the authors' figure for a GPU."
            f" Within it the student's predictor completes {median(anytime['iterations']):g} iterations"
            f" (longest plan: {max(anytime['seconds']):.2f} s). Remaining distance to the goal, means over"
            f" {report['parity']['problems']} problems: {', '.join(remaining)}.",
            "",
            *verdicts(report["limits"]),
        ]
    )


def routes() -> str:
    """Return the routes repeated in Two Rooms."""
    report = read("teach_and_repeat")
    lines = [
        f"{report['model']} in Two Rooms: routes of {report['median_length_m']:.1f} m (median) "
        "through a door, start "
        f"displaced by {report['displaced_s']:g} s of driving in a random direction, success within "
        f"{report['tolerance_m']:g} m of the true end. {processor(report['machine']['cpu'])}; "
        "`benchmarks/teach_and_repeat.py`.",
        "",
        "| driver | routes | success | 95 % |",
        "|---|---|---|---|",
    ]
    for name, score in report["scores"].items():
        lines.append(f"| {name} | {score['routes']} | {score['rate']:.0%} | {span(score['interval'])} |")
    return "\n".join(lines)


def critic() -> str:
    """Return what the world model prevents as a critic of other policies in Two Rooms."""
    report = read("critic")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in report["rows"]:
        rows.setdefault((row["policy"], row["condition"]), {})[row["arm"]] = row
    arms = list(dict.fromkeys(row["arm"] for row in report["rows"]))
    config, episodes = report["config"], report["rows"][0]["episodes"]
    times = [row["evaluate_ms"] for row in report["rows"] if row["arm"] == "critic"]
    lines = [
        f"{report['model']} ({report['precision']}) in Two Rooms, {episodes} held-out episodes of at most "
        f"{report['max_steps'] * report['step_s']:g} s for each cell, chunks of "
        f"{report['chunk_steps']} steps, "
        f"{report['candidates']} candidates, `limit={config['limit']:g}`, warm-up of {config['warmup']} "
        f"harmless chunks (counted in all columns), `trial_rate={config['trial_rate']:g}`. "
        f"{processor(report['machine']['cpu'])}, shared with other processes; a verdict takes "
        f"{median(each['p50'] for each in times):.1f} ms (median over the rows of p50; p99 "
        f"{median(each['p99'] for each in times):.1f} ms). `benchmarks/critic.py`.",
        "",
        "Goals reached in time, with 95 % intervals (Wilson):",
        "",
        f"| policy | robot | {' | '.join(arms)} |",
        f"|---|---|{'---|' * len(arms)}",
    ]
    for (policy, condition), found in rows.items():
        cells = [_rate(found[arm]) if arm in found else "" for arm in arms]
        lines.append(f"| {policy} | {condition} | {' | '.join(cells)} |")
    lines += [
        "",
        f"The critic, after its warm-up. Stated: at most {config['false_veto_rate']:.0%} false vetoes, and "
        f"{config['coverage']:.0%} of the scores within their bounds (given chunks; alternatives). "
        "Intervals of false vetoes are from a bootstrap over episodes. *By path*: a chunk is harmless if it "
        "shortens the true path by at least one step.",
        "",
        "| policy | robot | false vetoes | by path | of fixed threshold | harmful chunks not executed | "
        "failures prevented; caused (all episodes) | within bounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (policy, condition), found in rows.items():
        row = found["critic"]
        cells = [
            _part(row["false_vetoes"]),
            _part(row["true_false_vetoes"]),
            _part(found["fixed threshold"]["false_vetoes"]),
            _part(row["prevented"]),
            f"{row['failures_prevented']} of {episodes - found['alone']['reached']}; "
            f"{row['failures_caused']} of {found['alone']['reached']}",
            "; ".join(_part(row["coverage"].get(kind)) for kind in ("given", "alternative")),
        ]
        lines.append(f"| {policy} | {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def critic_keep_out() -> str:
    """Return the entries into a place to avoid that the world model prevents in Two Rooms."""
    report = read("critic_keep_out")
    config = report["config"]
    lines = [
        f"{report['model']} ({report['precision']}) in Two Rooms, {report['rows'][0]['episodes']} held-out "
        f"episodes of {report['max_steps'] * report['step_s']:g} s for each row. A robot within "
        f"{report['radius_m']:g} m of the place has entered it; `limit={config['limit']:g}`: a harmless "
        f"chunk stays at least {-config['limit']:g} steps away. The warm-up of {config['warmup']} harmless "
        "chunks is "
        f"in other episodes; `trial_rate={config['trial_rate']:g}` or 0. "
        f"{processor(report['machine']['cpu'])}; `benchmarks/critic_keep_out.py`.",
        "",
        "| policy | driver | place entered | mean path | false vetoes (stated: at most "
        f"{config['false_veto_rate']:.0%}) | harmful chunks not executed |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [
            f"{row['policy']} | {row['arm']} | {_rate(row)} | {row['mean_path_m']:.1f} m",
            *(_part(row[name]) if row[name] else "" for name in ("false_vetoes", "prevented")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def planners() -> str:
    """Return success against milliseconds of the registered searches in Two Rooms."""
    lines: list[str] = []
    for report in read_by_processor("planners"):
        rows = report["rows"]
        energies = [energy for energy in dict.fromkeys(row["energy"] for row in rows) if energy != "-"]
        found = {(row["planner"], row["energy"]): row for row in rows}
        columns = " | ".join(f"{energy}: goals reached | steps | p50; p99 ms" for energy in energies)
        lines += [
            f"{report['model']} ({report['precision']}) in Two Rooms, {rows[0]['episodes']} held-out "
            f"episodes for each row, one image and a plan of {report['iterations']} iterations per step, "
            f"{report['threads']} thread. {processor(report['machine']['cpu'])}, shared with other processes "
            "during the run, which p99 shows. `benchmarks/planners.py`.",
            "",
            f"| planner | {columns} |",
            f"|---|{'---|' * 3 * len(energies)}",
        ]
        for name in report["searches"]:
            cells = [
                f"{_rate(row)} | {_steps(row)} | {row['decision_ms']['p50']:.1f}; "
                f"{row['decision_ms']['p99']:.1f}"
                for row in (found[name, energy] for energy in energies)
            ]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        lines += ["", "Without a search, stopping by the true distance:", ""]
        lines += ["| driver | goals reached | steps |", "|---|---|---|"]
        lines += [
            f"| {row['planner'].replace('_', ' ')} | {_rate(row)} | {_steps(row)} |"
            for row in rows
            if row["energy"] == "-"
        ]
    return "\n".join(lines)


def predictors() -> str:
    """Return success, errors and durations of predictors on the same encoder."""
    lines: list[str] = []
    for report in read_by_processor("predictors"):
        rows, last = report["rows"], report["horizon"]
        lines += [
            f"Two Rooms, {rows[0]['episodes']} held-out episodes for each row, `{report['search']}` with the "
            f"bundle's energy, one image and a plan of {report['iterations']} iterations per step; rollouts "
            f"of {report['candidates']} candidates over {last} steps; {report['threads']} thread. "
            f"{processor(report['machine']['cpu'])}. `benchmarks/predictors.py`.",
            "",
            f"| bundle | goals reached | steps | error after 1; {last} steps, cm | multiply-adds "
            "| rollouts p50; p99 ms | decision p50; p99 ms |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            first, final = (100 * row["error_m"][index] for index in (0, -1))
            rollouts, decisions = (
                f"{row[name]['p50']:.2f}; {row[name]['p99']:.2f}" for name in ("rollout_ms", "decision_ms")
            )
            lines.append(
                f"| {row['model']}, {row['precision'].replace('int', 'INT')} | {_rate(row)} "
                f"| {_steps(row)} | {first:.1f}; {final:.1f} | {row['multiply_adds'] / 1e6:.1f} M "
                f"| {rollouts} | {decisions} |"
            )
        lines.append("")
    return "\n".join(lines[:-1])


def _steps(row: dict[str, Any]) -> str:
    """Return the mean duration of the episodes that reached their goal."""
    return "-" if row["mean_steps"] is None else f"{row['mean_steps']:.1f}"


def _rate(row: dict[str, Any]) -> str:
    return f"{row['rate']:.1%} ({span(row['interval'])})"


def _part(proportion: dict[str, Any] | None) -> str:
    """Return a proportion with its interval and count."""
    if proportion is None:
        return "none"
    return f"{proportion['rate']:.1%} ({span(proportion['interval'])}) of {proportion['of']}"
