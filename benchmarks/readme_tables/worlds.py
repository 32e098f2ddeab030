"""Tables about the simulated worlds."""

from __future__ import annotations

from typing import Any

from readme_tables.words import processor, read, read_by_processor, span


def first_person() -> str:
    """Return the goals reached in first-person rooms, and the speed of the renderer."""
    report = read("first_person")
    speed = report["per_second"]
    return _levels(
        report,
        "`benchmarks/first_person.py`",
        f"on one core, the renderer draws {speed['96x72']:,.0f} images of 96x72 or",
        f"{speed['384x288']:,.0f} of 384x288 per second of processor time, and the generator makes",
        f"{speed['layouts']:,.0f} layouts.",
    )


def first_person_mujoco() -> str:
    """Return the goals reached in first-person rooms in MuJoCo, and its speed."""
    report = read("first_person_mujoco")
    speed = report["per_second"]
    return _levels(
        report,
        "`benchmarks/first_person.py --world mujoco`",
        f"per second of processor time, MuJoCo {report['machine']['versions']['mujoco']} draws",
        f"{speed['96x72']:,.0f} images of 96x72 or {speed['384x288']:,.0f} of 384x288, simulates",
        f"{speed['ticks'] / 40:,.0f} s of driving, and compiles {speed['houses']:,.1f} houses.",
    )


def _levels(report: dict[str, Any], command: str, *speed: str) -> str:
    """Return sentences about the episodes and the speed, and a table of the drivers of each level."""
    lines = [
        "Held-out episodes, the same for all drivers of a level, counted from the first (seed",
        f"{report['seed']}, {command}); 95 % intervals (Wilson).",
        f"{processor(report['machine']['cpu'])}: {speed[0]}",
        *speed[1:],
        "",
        "| level | driver | episodes | reached | 95 % | stopped by itself | mean time | contacts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = (
            row["level"], row["driver"], str(row["episodes"]), f"{row['rate']:.1%}", span(row["interval"]),
            f"{row['stopped'] / row['episodes']:.0%}", f"{row['mean_time_s']:.1f} s",
            f"{row['contacts_per_episode']:.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def first_person_robot() -> str:
    """Return the goals reached by the code that drives the robot, with each measured bundle."""
    reports = read_by_processor("first_person_robot") + read_by_processor("first_person_mujoco_robot")
    return "\n\n".join(map(_robot, reports)) or "No bundle has been measured yet."


def _robot(report: dict[str, Any]) -> str:
    """Return a table of the levels and precisions of one report."""
    episodes = sorted({row["episodes"] for row in report["rows"]})
    settings = report["settings"]
    lines = [
        f"{report['model']}, {' or '.join(map(str, episodes))} held-out episodes of each level (world",
        f"{settings['world']}, seed {settings['seed']}, `benchmarks/first_person.py --bundle`); 95 %",
        f"intervals (Wilson). {processor(report['machine']['cpu'])}.",
        "",
        "| level | precision | reached | 95 % | mean time | contacts per episode | not reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        failures = [f"{name} {count}" for name, count in row["outcomes"].items() if name != "reached"]
        cells = (
            row["level"], row["driver"], f"{row['rate']:.1%}", span(row["interval"]),
            f"{row['mean_time_s']:.1f} s", f"{row['contacts_per_episode']:.1f}", ", ".join(failures),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
