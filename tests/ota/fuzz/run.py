"""Fuzz every reader with mutated input:

    python -m tests.ota.fuzz.run --executions 1000000

Each reader runs in its own process with limited memory. Print executions, seconds and findings of each, and
store the figures in ``benchmarks/results/robustness.json``. A finding is an exception that a reader must not
raise (such as MemoryError), or an input that takes seconds of processor time; it is reported with the seed
that reproduces it (``--reader NAME --seed N --executions 1``). Exit status 1: there is a finding.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from jepa_runtime.telemetry.environment import peak_rss_mb
from tests.bundles import make_bundle
from tests.ota.campaigns import results
from tests.ota.campaigns.scene import MEMORY
from tests.ota.fuzz.mutate import mutated
from tests.ota.fuzz.targets import Target, targets

MEMORY_MB = 256
_SLOW_S = 5.0
_MAX_FINDINGS = 20


@dataclass
class Fed:
    """Contain the results of fuzzing one reader.

    Attributes:
        accepted: Number of inputs that it accepted.
        rejected: Number of inputs for which it raised a coded error.
        grown_mb: Growth of the peak memory of its process.
        findings: One for each place that raised another exception, with the seed.
    """

    name: str
    executions: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: float = 0.0
    grown_mb: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)


class Hung(BaseException):
    """An input takes too long."""


def feed(target: Target, seeds: range) -> Fed:
    """Feed a reader with the input of each seed."""
    fed, began, before = Fed(target.name), time.monotonic(), peak_rss_mb()
    with _alarmed():
        for seed in seeds:
            data = mutated(Random(f"{target.name} {seed}"), target.seeds, is_json=target.is_json)
            fed.executions += 1
            signal.setitimer(signal.ITIMER_PROF, _SLOW_S)
            try:
                target.read(data)
                fed.accepted += 1
            except target.errors:
                fed.rejected += 1
            except (Exception, Hung) as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
                if len(fed.findings) < _MAX_FINDINGS:
                    fed.findings.setdefault(what, f"seed {seed}: {str(error)[:200]}; input {data[:200]!r}")
    fed.seconds = round(time.monotonic() - began, 1)
    fed.grown_mb = round(peak_rss_mb() - before, 1)
    return fed


@contextmanager
def _alarmed() -> Iterator[None]:
    def raise_hung(*_: object) -> None:
        raise Hung(f"more than {_SLOW_S:g} s of processor time")

    before = signal.signal(signal.SIGPROF, raise_hung)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _limit_memory() -> None:
    """Limit the memory of the process to its present size plus this amount."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (MEMORY_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--executions", type=int, default=1_000_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0, help="the first (default: %(default)s)")
    parser.add_argument("--reader", help="only this reader; print its results as JSON without storing them")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=results.PATH, help="where the figures go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        readers = targets(Path(home), make_bundle(Path(home, "toy")).path)
        if arguments.reader:
            reader = next(one for one in readers if one.name == arguments.reader)
            _limit_memory()
            print(
                json.dumps(asdict(feed(reader, range(arguments.seed, arguments.seed + arguments.executions))))
            )
            return 0
    shares = sum(reader.share for reader in readers)
    counts = {reader.name: -int(-arguments.executions * reader.share // shares) for reader in readers}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fed = list(pool.map(lambda name: _feed_in_process(name, arguments.seed, counts[name]), counts))
    print(table(fed))
    result = sum(len(one.findings) for one in fed)
    figures: dict[str, Any] = {
        "executions": sum(one.executions for one in fed),
        "findings": result,
        "memory_limit_mb": MEMORY_MB,
        "seed": arguments.seed,
        "readers": [asdict(one) for one in fed],
    }
    results.keep("fuzzing", figures, arguments.json)
    return 1 if result else 0


def _feed_in_process(reader: str, seed: int, count: int) -> Fed:
    command = [sys.executable, "-m", "tests.ota.fuzz.run", "--reader", reader]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--executions", str(count)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        died = f"exit status {done.returncode}: {done.stderr[-500:]}"
        return Fed(reader, findings={"its process died": died})
    return Fed(**json.loads(done.stdout))


def table(fed: list[Fed]) -> str:
    """Return a table and every finding."""
    lines = [f"{'reader':<30}{'executions':>11}{'accepted':>9}{'s':>7}{'MB more':>9}{'findings':>10}"]
    for one in fed:
        lines.append(
            f"{one.name:<30}{one.executions:>11}{one.accepted:>9}{one.seconds:>7.0f}{one.grown_mb:>9.1f}"
            f"{len(one.findings):>10}"
        )
        lines += [f"  {what}: {where}" for what, where in one.findings.items()]
    total, seconds = sum(one.executions for one in fed), sum(one.seconds for one in fed)
    return "\n".join([*lines, f"{total} executions in {seconds:.0f} s of {len(fed)} readers"])


if __name__ == "__main__":
    sys.exit(main())
