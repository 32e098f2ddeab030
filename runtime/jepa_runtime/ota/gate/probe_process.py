"""The process of a probe: drops its privileges, then opens, compares and times the bundle.

``python -m jepa_runtime.ota.gate.probe_process`` takes its request as JSON in its only argument, and writes
its
:class:`~jepa_runtime.ota.gate.probe.Answer` to standard output. Output of libraries goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import split_engine
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError, ReleaseRejectedError
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.model.rollouts import zero_states
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota.gate import landlock, seccomp
from jepa_runtime.ota.gate.latency_budget import Comparison, Floats, compare, cost_of
from jepa_runtime.ota.gate.probe import MAX_ANSWER_BYTES, Answer, ProbeLimits, ProbeReport
from jepa_runtime.planning.candidates import default_candidates
from jepa_runtime.serving import realtime
from jepa_runtime.telemetry.environment import peak_rss_mb

# From <sys/prctl.h> and <sched.h>.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_WARM_UP, _ROUNDS, _BLOCKS, _FRAMES = 20, 3, 10, 20
# More than this many times the processor time of one thread, plus some scheduler ticks: other threads work
# too.
_MAX_OWN_RATIO, _TICKS_S = 1.2, 0.05


def confine(limits: ProbeLimits, parent: int, *, drivers: bool, yields: bool) -> dict[str, bool]:
    """Permanently drop network, privileges, priority, and resources beyond ``limits``; die with ``parent``.

    Args:
        limits: The limits of the process.
        parent: The process id of the parent.
        drivers: Whether the engine needs drivers of a GPU or an NPU, which write files and talk to services.
            Without them, writing to the disk and local services are dropped too.
        yields: Take the lowest priority, because a model serves. On a machine whose processors are all busy
            the probe then takes up to a hundred times as long.

    Returns:
        ``network_isolated`` and ``disk_isolated`` of :class:`ProbeReport`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    cut = not libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) or not libc.unshare(_CLONE_NEWNET)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filtered = seccomp.forbid(drivers=drivers)
    disk_isolated = not drivers and landlock.forbid() and filtered
    # Last, because a change of credentials would clear it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has died")
    if yields:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, MAX_ANSWER_BYTES)
    _limit(resource.RLIMIT_DATA, limits.memory_mb * 1_000_000)
    # One second apart: SIGXCPU at the soft limit identifies the reason, SIGKILL at the hard limit does not.
    _limit(resource.RLIMIT_CPU, limits.cpu_s, 1)
    return {"network_isolated": cut or filtered, "disk_isolated": disk_isolated}


def _limit(what: int, most: int, room: int = 0) -> None:
    _, hard = resource.getrlimit(what)
    allowed = most + room if hard == resource.RLIM_INFINITY else min(most + room, hard)
    resource.setrlimit(what, (min(most, allowed), allowed))


class Timing(NamedTuple):
    """Timed frames of several models.

    Attributes:
        clock: Wall-clock time [models, rounds, blocks, frames], in milliseconds.
        cost: Cost of each frame (see :mod:`~jepa_runtime.ota.gate.latency_budget`), likewise.
        by_clock: Whether the cost is wall-clock time; otherwise it is processor time.
        others: Proportion of this process's processors that other processes used meanwhile; None: unknown.
    """

    clock: Floats
    cost: Floats
    by_clock: bool
    others: float | None


def measure(
    folder: Path,
    *,
    engine: str,
    precision: str | None,
    threads: int,
    network_isolated: bool,
    disk_isolated: bool,
) -> ProbeReport:
    """Open a bundle strictly, compare it with its golden outputs, and time it as in service.

    Raises:
        ReleaseRejectedError: A graph does not reproduce its golden outputs.
        BundleError: The bundle is not valid.
        BackendError: The engine cannot run it.
    """
    bundle, options = Bundle.open(folder), BackendOptions(threads=threads)
    parities = golden_parity(bundle, engine=engine, precision=precision, options=options)
    faults = [parity.fault for parity in parities if not parity.ok]
    if faults:
        raise ReleaseRejectedError(f"{folder}: {'; '.join(faults)}", code="gate.golden_mismatch")
    with WorldModel.open(
        bundle, engine=engine, precision=precision, options=options, allow_untrained=True
    ) as model:
        timing = time_frames([model], by_clock=_is_by_clock(engine, threads))
    rounds = timing.clock[0].reshape(_ROUNDS, -1)
    quietest = rounds[np.quantile(rounds, 0.99, axis=1).argmin()]
    return ProbeReport(
        latency_p50_ms=float(np.median(quietest)),
        latency_p99_ms=cost_of(timing.clock[0]).p99_ms,
        cost=cost_of(timing.cost[0]),
        by_clock=timing.by_clock,
        others=timing.others,
        peak_memory_mb=peak_rss_mb(),
        network_isolated=network_isolated,
        disk_isolated=disk_isolated,
    )


def measure_both(
    candidate: Path, active: Path, *, engine: str, precision: str | None, threads: int
) -> Comparison:
    """Time a candidate next to the active model.

    Raises:
        BundleError: One of them is not valid.
        BackendError: The engine cannot run one of them.
    """
    with ExitStack() as stack:
        models = [
            stack.enter_context(
                WorldModel.open(
                    Bundle.open(folder), engine=engine, precision=precision,
                    options=BackendOptions(threads=threads), allow_untrained=True,
                )
            )
            for folder in (candidate, active)
        ]  # fmt: skip
        timing = time_frames(models, by_clock=_is_by_clock(engine, threads))
    return compare(*timing.cost)


def time_frames(models: Sequence[WorldModel], *, by_clock: bool) -> Timing:
    """Time frames of models, in blocks that alternate between them.

    Args:
        models: The models.
        by_clock: Use wall-clock time as the cost; otherwise it is used only if threads other than this one do
            the work.
    """
    inputs = [
        (
            one,
            one.bundle.golden().frames,
            default_candidates(one.manifest, one.num_samples),
            zero_states(one.manifest),
            one.create_cache(),
        )
        for one in models
    ]
    times = np.empty((len(models), 2, _ROUNDS, _BLOCKS, _FRAMES))

    def run(which: int, count: int) -> Floats:
        model, frames, actions, states, cache = inputs[which]
        samples = []
        for index in range(count):
            # Time of the thread: under RLIMIT_CPU, that of the process advances only with the scheduler tick.
            clock, own = time.perf_counter(), time.thread_time()
            if cache is None:
                model.encode(frames[index % len(frames)])
            else:
                model.encode_clip(frames[index % len(frames)], cache, index)
            model.predict(actions, history_states=states)
            samples.append((time.perf_counter() - clock, time.thread_time() - own))
        return np.asarray(np.transpose(samples), np.float64)

    for which in range(len(models)):
        run(which, _WARM_UP)
    began, began_thread = _cpu_usage(), time.thread_time()
    for round_ in range(_ROUNDS):
        for block in range(_BLOCKS):
            for which in sorted(range(len(models)), reverse=bool(block % 2)):
                times[which, :, round_, block] = 1e3 * run(which, _FRAMES)
    total, idle, own = (after - before for before, after in zip(began, _cpu_usage(), strict=True))
    clock, processor = times[:, 0], times[:, 1]
    by_clock = by_clock or own > _MAX_OWN_RATIO * (time.thread_time() - began_thread) + _TICKS_S
    others = None if math.isnan(idle) else min(1.0, max(0.0, 1 - (idle + own) / total))
    return Timing(clock, clock if by_clock else processor, by_clock, others)


def _cpu_usage() -> tuple[float, float, float]:
    """Return seconds of this process's processors: passed, idle (NaN: unknown), and used by this process."""
    try:
        idle = realtime.idle_s()
    except OSError:
        idle = math.nan
    return len(os.sched_getaffinity(0)) * time.monotonic(), idle, time.process_time()


def _is_by_clock(engine: str, threads: int) -> bool:
    _, device = split_engine(engine)
    return device != "CPU" or threads > 1


def _missing_isolation(*, network_isolated: bool, disk_isolated: bool, drivers: bool) -> str:
    """Return what a process is not isolated from although it should be, or an empty string."""
    found = {"the network": network_isolated, "the disk": disk_isolated or drivers}
    return " and ".join(what for what, cut in found.items() if not cut)


def _run(request: dict[str, Any]) -> Answer:
    limits = ProbeLimits(**request["limits"])
    _, device = split_engine(request["engine"])
    drivers = device != "CPU"
    cut = confine(limits, request["parent"], drivers=drivers, yields=request["yields"])
    if request["require_sandbox"] and (missing := _missing_isolation(**cut, drivers=drivers)):
        return Answer(
            reason=f"{request['folder']}: was not opened, because its probe cannot be isolated from "
            f"{missing}: enable seccomp (SystemCallFilter= of the unit) and, for the disk, Landlock of Linux "
            "6.2 or later, or set require_sandbox to false in config.json",
            code="gate.no_sandbox",
        )
    folder, active = Path(request["folder"]), request["active"]
    how: dict[str, Any] = {name: request[name] for name in ("engine", "precision")}
    how |= {"threads": limits.threads}
    try:
        if active is not None:
            return Answer(comparison=measure_both(folder, Path(active), **how))
        return Answer(report=measure(folder, **how | cut))
    except JepaRuntimeError as error:
        return Answer(reason=str(error), code=error.code)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        output.write(_run(json.loads(sys.argv[1])).model_dump_json())
