"""How often the test of the shadow gate errs as it is shipped: on made-up scores, simulated.

The model that serves scores 0.2, and the difference to the candidate on one frame is Gaussian with a standard
deviation of 0.1 and so much correlation from one frame to the next. The candidate is as good, as bad as is
just allowed (accepting it is the false alarm of which there may be one in a hundred), or worse by as much
again.
Shares have Wilson's 95 % interval."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import track

from jepa_runtime.outputs import write_json
from jepa_runtime.profiling.environment import environment
from jepa_runtime.update.gate.sequential import PairedTest, power
from jepa_runtime.update.release import Budgets

ROOT = Path(__file__).resolve().parent.parent
CURRENT, SD = 0.2, 0.1
EFFECTS = {"as good": 0.0, "as bad as is just allowed": 1.0, "worse by as much again": 2.0}
CORRELATIONS = (0.0, 0.9, 0.98, 0.998)


def shipped() -> PairedTest:
    """The test of the gate, for a release that says nothing else."""
    allowed = Budgets().max_error_ratio
    assert allowed is not None
    return PairedTest(margin=allowed - 1)


def simulate(case: tuple[float, tuple[str, float]], runs: int) -> dict[str, Any]:
    """One row."""
    correlation, (name, times) = case
    effect = times * shipped().margin * CURRENT
    found = power(shipped, effect=effect, sd=SD, runs=runs, seed=0, current=CURRENT, correlation=correlation)
    shares = {"accepted": found.interval(found.accepted), "refused": found.interval(found.refused)}
    return {"candidate": name, "correlation": correlation, **asdict(found), "intervals": shares}


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400, help="of each case (%(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "gate_power.json")
    arguments = parser.parse_args(argv)
    cases = list(product(CORRELATIONS, EFFECTS.items()))
    with ProcessPoolExecutor() as pool:
        rows = list(
            track(pool.map(partial(simulate, runs=arguments.runs), cases), "simulating", total=len(cases))
        )
    report = {"current": CURRENT, "sd": SD, "rows": rows, "environment": environment().model_dump()}
    write_json(arguments.json, report)
    for row in rows:
        ended = f"accepted {row['accepted']}, shown worse {row['refused']}, neither {row['undecided']}"
        print(f"correlation {row['correlation']:g}, {row['candidate']}: {ended} of {row['runs']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
