"""Time of a search alone: ask and tell of each preset that searches by energies, without a model.

This is the overhead of the planner in each iteration. Costs are drawn in advance. For whole plans with a
predictor of LeWM's size see benchmarks/lewm.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepa_runtime.control import preset
from jepa_runtime.planning import ActionLimits, SearchContext, create_search
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import PERCENTILE_METHOD, summarize, write_json

ROOT = Path(__file__).resolve().parent.parent
# Action size of the robot of each preset in jepa_runtime.control.presets that searches by energies.
ACTION_SIZES = {"vjepa2_ac": 7, "lewm": 10, "eb_jepa": 2, "two_rooms": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement and return the exit status."""
    arguments = _parser().parse_args(argv)
    report = {
        "search": {name: search_alone(name, arguments.iterations) for name in ACTION_SIZES},
        "method": PERCENTILE_METHOD,
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
    }
    write_json(arguments.json, report)
    show(report, Console())
    return 0


def search_alone(name: str, iterations: int) -> dict[str, Any]:
    """Return the statistics of ask and tell over ``iterations``."""
    settings, size = preset(name).search, ACTION_SIZES[name]
    limits = ActionLimits(low=np.full(size, -1, np.float32), high=np.ones(size, np.float32))
    search = create_search(settings, SearchContext(limits=limits, seed=0))
    costs = np.random.default_rng(0).uniform(0, 1, (iterations, settings.num_samples)).astype(np.float32)
    spent_ms: dict[str, list[float]] = {"ask": [], "tell": []}
    for each in costs:
        began = time.perf_counter()
        search.ask()
        asked_s = time.perf_counter()
        search.tell(each)
        spent_ms["ask"].append((asked_s - began) * 1e3)
        spent_ms["tell"].append((time.perf_counter() - asked_s) * 1e3)
    return {
        "candidates": [settings.num_samples, settings.horizon, size],
        "ms": {part: summarize(values).as_dict(4) for part, values in spent_ms.items()},
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as a table."""
    table = Table(title="Search alone, ms per iteration", title_justify="left")
    table.add_column("preset")
    for column in ("K x H x A", "ask p50", "ask p95", "tell p50", "tell p95", "n"):
        table.add_column(column, justify="right")
    for name, measured in report["search"].items():
        ask, tell = measured["ms"]["ask"], measured["ms"]["tell"]
        figures = (
            "-" if each is None else f"{each:.3f}"
            for part in (ask, tell)
            for each in (part["p50"], part["p95"])
        )
        table.add_row(name, " x ".join(map(str, measured["candidates"])), *figures, str(ask["n"]))
    console.print(table)
    console.print(f"{report['machine']['cpu']['model']}, {report['machine']['cpu']['cores']} cores")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--iterations", type=int, default=1000, help="iterations of each search (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "planning.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
