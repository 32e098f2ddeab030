"""Run the campaigns at every point, in the order of the command line:

    python -m tests.ota.campaigns.run crashes power

Print a table for each and every finding, and store the figures in ``benchmarks/results/robustness.json``.
Exit status 1: there is a finding, or a point was not reached.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.bundles import make_bundle
from tests.ota.campaigns import crashes, power, results, tracing
from tests.ota.campaigns.crashes import Fault, Report
from tests.ota.campaigns.power import Mode
from tests.ota.campaigns.scene import MEMORY, STORIES, Stage, Story

Job = Callable[[Stage], Report]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=("crashes", "power"))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th point")
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=results.PATH, help="where the figures go")
    arguments = parser.parse_args()
    ok = True
    for part in arguments.parts:
        if reason := {"crashes": tracing.missing, "power": power.missing}[part]():
            print(f"{part}: {reason}")
            return 2
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            reports = _all(part, Path(folder), arguments.every, arguments.jobs)
        print(f"\n{part}\n{crashes.shown(reports)}", flush=True)
        met = all(report.hit == report.points > 0 and not report.findings for report in reports)
        ok = ok and met
        figures = {
            "every": arguments.every,
            "points": sum(report.points for report in reports),
            "findings": sum(len(report.findings) for report in reports),
            "campaigns": [report.as_json() for report in reports],
        }
        results.keep(part, figures, arguments.json)
    return 0 if ok else 1


def _all(part: str, home: Path, every: int, count: int) -> list[Report]:
    make_bundle(home / "toy")
    (home / "stage").mkdir()
    stage = Stage(home / "stage", home / "toy")
    jobs: list[Job]
    if part == "crashes":
        jobs = [
            partial(_crash, story=story, fault=fault, every=every)
            for fault in crashes.FAULTS
            for story in STORIES
        ]
    else:
        jobs = [
            partial(_cut, story=story, mode=mode, every=every) for mode in power.MODES for story in STORIES
        ]
    # Forked, so that no process has anything left to import when it forks the traced child.
    with get_context("fork").Pool(count) as pool:
        done = [pool.apply_async(job, (stage,)) for job in jobs]
        return [one.get() for one in done]


def _crash(stage: Stage, story: Story, fault: Fault, every: int) -> Report:
    return crashes.campaign(stage, story, fault, every=every)


def _cut(stage: Stage, story: Story, mode: Mode, every: int) -> Report:
    return power.campaign(stage, story, mode, every=every)


if __name__ == "__main__":
    sys.exit(main())
