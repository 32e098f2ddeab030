"""Simulate how often the test of the shadow gate errs in its shipped configuration, on synthetic scores.

The active model scores 0.2; the difference to the candidate on one frame is Gaussian with a standard
deviation of 0.1 and the given correlation between consecutive frames. The candidate is as good, exactly as
bad as allowed (accepting it is the false alarm that may occur once in a hundred), or worse by the same amount
again. Proportions have Wilson's 95 % interval.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from jepa_runtime.ota import Budgets
from jepa_runtime.ota.gate import GOOD, NOT_SHOWN, WORSE, PairedTest, Verdict
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import end_with_parent, wilson, write_json

ROOT = Path(__file__).resolve().parent.parent
CURRENT, SD = 0.2, 0.1
EFFECTS = {"as good": 0.0, "as bad as is just allowed": 1.0, "worse by as much again": 2.0}
CORRELATIONS = (0.0, 0.9, 0.98, 0.998)


def shipped() -> PairedTest:
    """Return the test of the gate, for a release without its own budgets."""
    allowed = Budgets().max_error_ratio
    assert allowed is not None
    return PairedTest(margin=allowed - 1)


@dataclass(frozen=True)
class Power:
    """Results of a test over ``runs`` runs: accepted, shown to be too bad, or neither by the last frame."""

    runs: int
    accepted: int
    rejected: int
    undecided: int
    median_frames: float

    def interval(self, count: int) -> tuple[float, float]:
        """Return the Wilson 95 % interval of ``count / runs``."""
        return wilson(count, self.runs)


def power(
    make: Callable[[], PairedTest],
    *,
    effect: float,
    sd: float,
    runs: int,
    seed: int,
    correlation: float,
) -> Power:
    """Run a test on synthetic scores.

    Args:
        make: Creates a new test for each run.
        effect: Difference of the candidate's mean score to :data:`CURRENT`, the other model's.
        sd: Standard deviation of their difference on one frame, which is Gaussian.
        runs: Number of runs.
        seed: Seed of the scores.
        correlation: Correlation of that difference between consecutive frames (first-order autoregressive).
    """
    ends: list[PairedTest] = []
    for run in range(runs):
        random, test = np.random.default_rng([seed, run]), make()
        noise, fresh = random.standard_normal(), math.sqrt(1 - correlation**2)
        while test.add(CURRENT, CURRENT + effect + sd * noise) is Verdict.CONTINUE:
            noise = correlation * noise + fresh * random.standard_normal()
        ends.append(test)
    reasons = [test.reason for test in ends]
    return Power(
        runs=len(ends),
        accepted=reasons.count(GOOD),
        rejected=reasons.count(WORSE),
        undecided=reasons.count(NOT_SHOWN),
        median_frames=float(np.median([test.summary().frames for test in ends])),
    )


def simulate(case: tuple[float, tuple[str, float]], runs: int) -> dict[str, Any]:
    """Return one row of the report."""
    correlation, (name, times) = case
    effect = times * shipped().margin * CURRENT
    result = power(shipped, effect=effect, sd=SD, runs=runs, seed=0, correlation=correlation)
    intervals = {
        "accepted": result.interval(result.accepted),
        "rejected": result.interval(result.rejected),
    }
    return {"candidate": name, "correlation": correlation, **asdict(result), "intervals": intervals}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400, help="runs of each case (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "gate_power.json")
    arguments = parser.parse_args(argv)
    cases = list(product(CORRELATIONS, EFFECTS.items()))
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:
        rows = list(
            track(pool.map(partial(simulate, runs=arguments.runs), cases), "simulating", total=len(cases))
        )
    report = {"current": CURRENT, "sd": SD, "rows": rows, "environment": read_environment().model_dump()}
    write_json(arguments.json, report)
    for row in rows:
        counts = f"accepted {row['accepted']}, shown worse {row['rejected']}, neither {row['undecided']}"
        print(f"correlation {row['correlation']:g}, {row['candidate']}: {counts} of {row['runs']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
