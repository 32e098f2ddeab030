"""From nothing to the first futures, phase by phase, each repetition in a process of its own.

``python -m jepa_runtime.profiling.cold_start`` is that process: what it is told comes as JSON in its one
argument, what it measured goes as JSON to standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any, Literal

import numpy as np

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import takes_building
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.profile import ColdStart
from jepa_runtime.util.compat import python_module

_TOTAL = ("import", "open", "compile", "first_encode", "first_predict")
_STEADY_RUNS = 20
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is to be started: see :meth:`jepa_runtime.WorldModel.open`.

    Attributes:
        cache_dir: of an engine that takes minutes to build, where it was built into.
    """

    bundle: Path
    engine: str
    precision: str | None
    num_samples: int | None
    threads: int | None
    cache_dir: Path | None = None


def caches(engine: str) -> tuple[Literal["miss", "hit"], ...]:
    """With what caches there is something to measure: an engine that takes minutes to build is there, or its
    start is no start."""
    return ("hit",) if takes_building(engine) else ("miss", "hit")


def measure(
    start: Start, *, stopping: Event, repetitions: int = 3, tick: Callable[[], None] = lambda: None
) -> list[ColdStart]:
    """Start ``repetitions`` times with each cache of :func:`caches`: of compiled models, empty and full.

    Args:
        stopping: set from elsewhere to end after the start in work; those before it are kept.
        tick: called after each start.

    Raises:
        ProfileError: a process failed; the message is its own.
    """
    found: dict[Literal["miss", "hit"], list[dict[str, float]]] = {kind: [] for kind in caches(start.engine)}
    with tempfile.TemporaryDirectory() as folder:
        for repetition, kind in product(range(repetitions), found):
            if stopping.is_set():
                break
            cache = start.cache_dir if takes_building(start.engine) else Path(folder) / str(repetition)
            found[kind].append(_run(start, cache))
            tick()
    return [
        ColdStart(
            cache=kind,
            phases_ms={name: [round(run[name], 3) for run in runs] for name in runs[0]},
            total_ms=[round(sum(run[name] for name in _TOTAL), 3) for run in runs],
        )
        for kind, runs in found.items()
        if runs
    ]


def _run(start: Start, cache: Path | None) -> dict[str, float]:
    told = asdict(start) | {"cache_dir": cache, "spawned_ns": time.perf_counter_ns()}
    try:
        # A session of its own: Ctrl-C is for the one who measures, who lets a start come to its end.
        done = subprocess.run(
            [*python_module(__name__), json.dumps(told, default=str)],
            capture_output=True, text=True, check=False, timeout=_PATIENCE_S, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ProfileError(f"a cold start had not ended after {_PATIENCE_S:g} s: the engine hangs") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ProfileError(f"the cold start failed in its own process: {reason}")
    phases: dict[str, float] = json.loads(done.stdout)
    return phases


def _phases(told: dict[str, Any], imported_ns: int) -> dict[str, float]:
    """The phases in this process, ms. The clock is the system's monotonic one, the same in all processes."""
    phases = {"import": (imported_ns - told["spawned_ns"]) / 1e6}
    last_ns = imported_ns

    def note(phase: str) -> None:
        nonlocal last_ns
        now_ns = time.perf_counter_ns()
        phases[phase], last_ns = (now_ns - last_ns) / 1e6, now_ns

    bundle = Bundle.open(told["bundle"])
    note("open")
    cache = told["cache_dir"]
    options = BackendOptions(threads=told["threads"], cache_dir=None if cache is None else Path(cache))
    with WorldModel.open(
        bundle, engine=told["engine"], precision=told["precision"], num_samples=told["num_samples"],
        options=options, allow_untrained=True,
    ) as model:  # fmt: skip
        note("compile")
        frame, manifest = bundle.manifest.io.frame, bundle.manifest
        image = np.zeros((frame.height, frame.width, 3), np.uint8)
        actions = np.zeros((model.num_samples, manifest.horizon, manifest.action_size), np.float32)
        model.encode(image)
        note("first_encode")
        model.predict(actions)
        note("first_predict")
        steady: dict[str, list[float]] = {"encode": [], "predict": []}
        for _ in range(_STEADY_RUNS):
            model.encode(image)
            model.predict(actions)
            for stage, values in steady.items():
                values.append(model.timings[stage])
        phases |= {f"steady_{stage}": median(values) for stage, values in steady.items()}
    return phases


if __name__ == "__main__":
    try:
        print(json.dumps(_phases(json.loads(sys.argv[1]), time.perf_counter_ns())))
    except JepaRuntimeError as error:
        sys.exit(str(error))
