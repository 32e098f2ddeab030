"""The process of a probe: it gives up what it does not need, then opens, compares and times the bundle.

``python -m jepa_runtime.update.gate.probe_child`` is that process: what it is told comes as JSON in its one
argument, its :class:`~jepa_runtime.update.gate.probe.Answer` goes to standard output; what libraries print
there goes to standard error instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.select import name_and_device
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError, RefusedError
from jepa_runtime.planning.fan import fan
from jepa_runtime.profiling.environment import peak_rss_mb
from jepa_runtime.profiling.statistics import Summary, summarize
from jepa_runtime.update.gate import calls, disk
from jepa_runtime.update.gate.probe import MAX_ANSWER_BYTES, Answer, ProbeLimits, ProbeReport
from jepa_runtime.verification import golden_parity
from jepa_runtime.world_model import WorldModel

# From <sys/prctl.h> and <sched.h>.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_WARM_UP, _ROUNDS, _FRAMES = 20, 3, 200


def confine(limits: ProbeLimits, parent: int, *, drivers: bool) -> dict[str, bool]:
    """Give up, for good: network, privileges, priority, and resources beyond ``limits``; die with ``parent``.

    Args:
        drivers: an engine needs those of a GPU or an NPU, which write files and talk to services. Without
            them, writing to the disk and the services of this machine are given up too.

    Returns:
        Of :class:`ProbeReport`, ``network_cut`` and ``disk_cut``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    cut = not libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) or not libc.unshare(_CLONE_NEWNET)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filtered = calls.forbid(drivers=drivers)
    disk_cut = not drivers and disk.forbid() and filtered
    # Last, because a change of credentials would clear it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("whoever wanted this probe has died")
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, MAX_ANSWER_BYTES)
    _limit(resource.RLIMIT_DATA, limits.memory_mb * 1_000_000)
    # A second between the limits: SIGXCPU at the first one says why, SIGKILL at the other says nothing.
    _limit(resource.RLIMIT_CPU, limits.cpu_s, 1)
    return {"network_cut": cut or filtered, "disk_cut": disk_cut}


def _limit(what: int, most: int, room: int = 0) -> None:
    _, hard = resource.getrlimit(what)
    allowed = most + room if hard == resource.RLIM_INFINITY else min(most + room, hard)
    resource.setrlimit(what, (min(most, allowed), allowed))


def measure(
    folder: Path, *, engine: str, precision: str | None, threads: int, network_cut: bool, disk_cut: bool
) -> ProbeReport:
    """Open a bundle strictly, compare it with its golden outputs, and time it as it would serve.

    Raises:
        RefusedError: a graph does not reproduce its golden outputs.
        BundleError: it is not valid.
        BackendError: the engine cannot run it.
    """
    # Pinned, it would compete with what serves for that one core.
    options = BackendOptions(threads=threads, pinning=False)
    bundle = Bundle.open(folder)
    parities = golden_parity(bundle, engine=engine, precision=precision, options=options)
    faults = [parity.fault for parity in parities if not parity.ok]
    if faults:
        raise RefusedError(f"{folder}: {'; '.join(faults)}")
    with WorldModel.open(
        bundle, engine=engine, precision=precision, options=options, allow_untrained=True
    ) as model:
        p50, p99 = _latency(model)
    return ProbeReport(
        latency_p50_ms=p50,
        latency_p99_ms=p99,
        peak_memory_mb=peak_rss_mb(),
        network_cut=network_cut,
        disk_cut=disk_cut,
    )


def _latency(model: WorldModel) -> tuple[float, float]:
    """p50 and p99 of the quietest round: what else runs on this robot can only make a round slower."""
    frames, actions = model.bundle.golden().frames, fan(model.manifest, model.num_samples)

    def run(count: int) -> Summary:
        samples = []
        for index in range(count):
            began = time.perf_counter()
            model.encode(frames[index % len(frames)])
            model.predict(actions)
            samples.append((time.perf_counter() - began) * 1e3)
        return summarize(samples)

    run(_WARM_UP)
    rounds = [run(_FRAMES) for _ in range(_ROUNDS)]
    carried = [(one.p99, one.p50) for one in rounds if one.p99 is not None and one.p50 is not None]
    p99, p50 = min(carried)
    return p50, p99


def _lacks(*, network_cut: bool, disk_cut: bool, drivers: bool) -> str:
    """From what a process is not cut off that should be; empty: nothing."""
    found = {"the network": network_cut, "the disk": disk_cut or drivers}
    return " and ".join(what for what, cut in found.items() if not cut)


def _answer(told: dict[str, Any]) -> Answer:
    limits = ProbeLimits(**told["limits"])
    _, device = name_and_device(told["engine"])
    drivers = device != "CPU"
    cut = confine(limits, told["parent"], drivers=drivers)
    if told["require_sandbox"] and (lacks := _lacks(**cut, drivers=drivers)):
        return Answer(
            reason=f"{told['folder']}: was not opened: its probe cannot be cut off from {lacks} here, which "
            "takes seccomp and, for the disk, Landlock as of Linux 6.2, and a unit that allows both "
            "(SystemCallFilter=); to try releases all the same, set require_sandbox to false in config.json"
        )
    try:
        report = measure(
            Path(told["folder"]),
            engine=told["engine"],
            precision=told["precision"],
            threads=limits.threads,
            **cut,
        )
    except JepaRuntimeError as error:
        return Answer(reason=str(error))
    return Answer(report=report)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        output.write(_answer(json.loads(sys.argv[1])).model_dump_json())
