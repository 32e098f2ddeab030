"""Cold start: the time from process start to the first futures, by phase.

Each repetition runs ``python -m jepa_runtime.profiling.cold_start`` in a new process. The process takes its
configuration as JSON in one argument and writes its measurements as JSON to standard output.
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
from jepa_runtime.backends.registry import requires_build
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.model.rollouts import zero_states
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.profile import ColdStart
from jepa_runtime.util.compat import python_module

_TOTAL = ("import", "open", "compile", "first_encode", "first_predict")
_STEADY_RUNS = 20
_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model to start, see :meth:`jepa_runtime.WorldModel.open`.

    Attributes:
        cache_dir: The folder with the built engines, for an engine that must be built in advance.
    """

    bundle: Path
    engine: str
    precision: str | None
    num_samples: int | None
    threads: int | None
    cache_dir: Path | None = None


def cache_states(engine: str) -> tuple[Literal["miss", "hit"], ...]:
    """Return the cache states to measure; an engine that must be built in advance only has ``hit``."""
    return ("hit",) if requires_build(engine) else ("miss", "hit")


def measure(
    start: Start, *, stopping: Event, repetitions: int = 3, tick: Callable[[], None] = lambda: None
) -> list[ColdStart]:
    """Measure cold starts with an empty and a full cache of compiled models.

    Args:
        start: The model to start.
        stopping: When it is set, the measurement ends after the current start.
        repetitions: Number of starts for each state of :func:`cache_states`.
        tick: Called after each start.

    Raises:
        ProfileError: A process failed; the message contains its error.
    """
    states: dict[Literal["miss", "hit"], list[dict[str, float]]] = {
        state: [] for state in cache_states(start.engine)
    }
    with tempfile.TemporaryDirectory() as folder:
        for repetition, state in product(range(repetitions), states):
            if stopping.is_set():
                break
            cache = start.cache_dir if requires_build(start.engine) else Path(folder) / str(repetition)
            states[state].append(_run(start, cache))
            tick()
    return [
        ColdStart(
            cache=state,
            phases_ms={name: [round(run[name], 3) for run in runs] for name in runs[0]},
            total_ms=[round(sum(run[name] for name in _TOTAL), 3) for run in runs],
        )
        for state, runs in states.items()
        if runs
    ]


def _run(start: Start, cache: Path | None) -> dict[str, float]:
    config = asdict(start) | {"cache_dir": cache, "spawned_ns": time.perf_counter_ns()}
    try:
        # In a session of its own, so that Ctrl-C does not end the start in progress.
        done = subprocess.run(
            [*python_module(__name__), json.dumps(config, default=str)],
            capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ProfileError(
            f"{start.bundle}: a cold start took longer than {_TIMEOUT_S:g} s: the engine {start.engine} "
            "hangs",
            code="profile.timeout",
        ) from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ProfileError(f"{start.bundle}: a cold start failed: {reason}", code="profile.cold_start_failed")
    phases: dict[str, float] = json.loads(done.stdout)
    return phases


def _phases(config: dict[str, Any], imported_ns: int) -> dict[str, float]:
    """Measure the phases in this process [ms].

    The clock is the monotonic one of the system, which all processes share.
    """
    phases = {"import": (imported_ns - config["spawned_ns"]) / 1e6}
    last_ns = imported_ns

    def end_phase(phase: str) -> None:
        nonlocal last_ns
        now_ns = time.perf_counter_ns()
        phases[phase], last_ns = (now_ns - last_ns) / 1e6, now_ns

    bundle = Bundle.open(config["bundle"])
    end_phase("open")
    cache = config["cache_dir"]
    options = BackendOptions(threads=config["threads"], cache_dir=None if cache is None else Path(cache))
    with WorldModel.open(
        bundle, engine=config["engine"], precision=config["precision"], num_samples=config["num_samples"],
        options=options, allow_untrained=True,
    ) as model:  # fmt: skip
        end_phase("compile")
        frame, manifest = bundle.manifest.io.frame, bundle.manifest
        image = np.zeros((frame.height, frame.width, 3), np.uint8)
        actions = np.zeros((model.num_samples, manifest.horizon, manifest.action_size), np.float32)
        states = zero_states(manifest)
        cache = model.create_cache()
        model.encode_clip([image], cache, 0)
        end_phase("first_encode")
        model.predict(actions, history_states=states)
        end_phase("first_predict")
        steady: dict[str, list[float]] = {"encode": [], "predict": []}
        for step in range(1, 1 + _STEADY_RUNS):
            model.encode_clip([image], cache, step)
            model.predict(actions, history_states=states)
            for stage, values in steady.items():
                values.append(model.timings[stage])
        phases |= {f"steady_{stage}": median(values) for stage, values in steady.items()}
    return phases


if __name__ == "__main__":
    try:
        print(json.dumps(_phases(json.loads(sys.argv[1]), time.perf_counter_ns())))
    except JepaRuntimeError as error:
        sys.exit(str(error))
