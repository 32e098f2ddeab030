"""Measure how often the latency probe errs on a machine under load.

The candidate is the active model itself, or the same model with each frame taking 1.5 or 2 times as long (it
continues to compute). The budget is 1.25 times the p99 of a frame without load: the first candidate meets it,
the others do not. Load is 0, 1 or 2 processes that compute constantly at normal priority, each in its own
session; the probe has the lowest priority. Each trial is a separate probe, evaluated in three ways: as
shipped, with the active model for comparison; without one; and by wall-clock p99 of the quietest round.
Proportions have Wilson's 95 % interval. Finished cases are written to --json at once; a restarted benchmark
continues from there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import count
from jepa_runtime.model import WorldModel
from jepa_runtime.ota.gate import compare, cost_of, is_within, time_frames
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import wilson, write_json

ROOT = Path(__file__).resolve().parent.parent
FACTORS, BUSY_PROCESSES, HEADROOM, AT_REST = (1.0, 1.5, 2.0), (0, 1, 2), 1.25, 5
# A load process ends by itself if the benchmark is killed.
_BUSY = "import time\nends = time.monotonic() + 600\nwhile time.monotonic() < ends: pass"
METHODS = ("compared", "alone", "clock")


class Slower:
    """A model that continues to compute after each call until it has taken ``factor`` times the CPU time."""

    def __init__(self, model: WorldModel, factor: float) -> None:
        self.bundle, self.manifest, self.num_samples = model.bundle, model.manifest, model.num_samples
        self._model, self._factor = model, factor

    def create_cache(self) -> None:
        """Return no cache: the encoder reads single images."""

    def encode(self, frame: NDArray[np.uint8]) -> None:
        """Encode a frame."""
        began = time.thread_time()
        self._model.encode(frame)
        self._compute_on(began)

    def predict(self, actions: NDArray[np.float32], *, history_states: None) -> None:
        """Predict the futures of actions."""
        began = time.thread_time()
        self._model.predict(actions, history_states=history_states)
        self._compute_on(began)

    def _compute_on(self, began: float) -> None:
        ends = began + self._factor * (time.thread_time() - began)
        while time.thread_time() < ends:
            pass


@contextmanager
def busy_processes(number: int, spawner: ThreadPoolExecutor) -> Iterator[None]:
    """Run processes that compute constantly, with the priority of the thread of ``spawner``."""
    start = partial(subprocess.Popen, [sys.executable, "-c", _BUSY], start_new_session=True)
    running = [spawner.submit(start).result() for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Trial:
    """Result of one probe, with a verdict of each of :data:`METHODS`: passed, rejected, None: undecided."""

    cost_ms: float
    clock_ms: float
    others: float | None
    ratio: float | None
    verdicts: dict[str, bool | None]


def trial(active: WorldModel, factor: float, budget_ms: float) -> Trial:
    """Probe a candidate that is ``factor`` times as slow as the active model."""
    candidate: Any = Slower(active, factor) if factor > 1 else active
    alone = time_frames([candidate], by_clock=False)
    cost, clock = cost_of(alone.cost[0]), cost_of(alone.clock[0])
    verdict_alone = is_within(budget_ms, cost, others=alone.others, comparison=None)
    both = None
    if verdict_alone is None:
        both = compare(*time_frames([candidate, active], by_clock=False).cost)
    compared = is_within(budget_ms, cost, others=alone.others, comparison=both)
    verdicts = {"compared": compared, "alone": verdict_alone, "clock": clock.p99_ms <= budget_ms}
    return Trial(cost.p99_ms, clock.p99_ms, alone.others, both and both.ratio, verdicts)


def row(load: int, factor: float, trials: Sequence[Trial]) -> dict[str, Any]:
    """Summarize all trials of one case."""
    verdicts: dict[str, Any] = {}
    for method in METHODS:
        results = [one.verdicts[method] for one in trials]
        numbers = {"passed": results.count(True), "rejected": results.count(False)}
        errors = numbers["rejected" if factor <= HEADROOM else "passed"]
        verdicts[method] = {
            **numbers,
            "undecided": results.count(None),
            "errors": errors,
            "errors_interval": wilson(errors, len(trials)),
        }
    ratios = [one.ratio for one in trials if one.ratio is not None]
    others = [one.others for one in trials if one.others is not None]
    return {
        "busy_processes": load,
        "factor": factor,
        "trials": len(trials),
        "cost_p99_ms": float(np.median([one.cost_ms for one in trials])),
        "clock_p99_ms": float(np.median([one.clock_ms for one in trials])),
        "others": float(np.median(others)) if others else None,
        "ratio": float(np.median(ratios)) if ratios else None,
        "verdicts": verdicts,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--trials", type=count, default=20, help="trials of each case (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "gate_latency.json")
    arguments = parser.parse_args(argv)
    options = BackendOptions(threads=1)
    with (
        ThreadPoolExecutor(1) as spawner,
        WorldModel.open(Bundle.open(arguments.bundle), engine="openvino:CPU", options=options) as active,
    ):
        # Priorities belong to threads: that of the spawner, which is already running, stays normal.
        spawner.submit(os.getpid).result()
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        report = stored(arguments.json) or at_rest(active)
        for load, factor in product(BUSY_PROCESSES, FACTORS):
            if any((one["busy_processes"], one["factor"]) == (load, factor) for one in report["rows"]):
                continue
            with busy_processes(load, spawner):
                steps = track(range(arguments.trials), f"{load} busy processes, {factor:g} x", transient=True)
                trials = [trial(active, factor, report["budget_ms"]) for _ in steps]
            report["rows"].append(row(load, factor, trials))
            write_json(arguments.json, report)
            print(reported(report["rows"][-1]), flush=True)
    return 0


def stored(path: Path) -> dict[str, Any] | None:
    """Return the report of an earlier run, or None."""
    if not path.exists():
        return None
    report: dict[str, Any] = json.loads(path.read_bytes())
    return report


def at_rest(active: WorldModel) -> dict[str, Any]:
    """Return a report without rows, with the budget derived from the active model without load."""
    costs = [cost_of(time_frames([active], by_clock=False).cost[0]).p99_ms for _ in range(AT_REST)]
    budget_ms = HEADROOM * float(np.median(costs))
    where = read_environment().model_dump()
    return {"budget_ms": budget_ms, "headroom": HEADROOM, "rows": [], "environment": where}


def reported(case: dict[str, Any]) -> str:
    """Return a row as text."""
    verdicts = "; ".join(
        f"{method}: {counts['passed']} passed, {counts['rejected']} rejected, {counts['undecided']} undecided"
        for method, counts in case["verdicts"].items()
    )
    return f"{case['busy_processes']} busy processes, {case['factor']:g} x: {verdicts}"


if __name__ == "__main__":
    sys.exit(main())
