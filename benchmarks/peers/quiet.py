"""When the machine was quiet: a probe next to a measurement, which our own work cannot slow down.

On each core a process of the highest priority wakes every 2 ms for 15 us. Whatever runs at a lower priority
gives way to it, so two things alone disturb it: what has the core without this system's knowing (another
virtual machine, a neighbor on the same physical core, firmware), and the kernel where it does not let go.
Then the probe comes late, as cyclictest of the rt-tests measures it, or its few instructions take longer than
they usually do.
"""

from __future__ import annotations

import array
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from threading import Event

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from jepa_runtime.errors import ProfileError
from jepa_runtime.serving import realtime

_PRIORITY, _PERIOD_S = 50, 0.002
# Usual are 0.03 ms.
_LATE_S = 0.00015
# The median of this number of consecutive ones counts, relative to the usual one: a neighbor on the core
# makes it 1.6 to 2 times as long.
_NEIGHBORS, _SLOWER = 5, 1.4
# Work that was held up holds up what comes after it.
_AFTER_S = 0.1

_Floats = NDArray[np.float64]


class Probe:
    """Watches ``cores`` while it is entered.

    Raises:
        ProfileError: it may not come before everything else here.
    """

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = sorted(cores)
        self._disturbances: _Floats = np.empty(0)

    def __enter__(self) -> Probe:
        command = [sys.executable, str(Path(__file__).resolve())]
        self._processes = [
            subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for core in self._cores
        ]
        # Each says when it has begun.
        if not all([process.stdout.readline() for process in self._processes if process.stdout]):
            self._end()
        return self

    def __exit__(self, *_: object) -> None:
        reported = [disturbances(*np.frombuffer(out).reshape(3, -1)) for out in self._end()]
        self._disturbances = np.sort(np.concatenate(reported))

    def _end(self) -> list[bytes]:
        for process in self._processes:
            process.terminate()
        ended = [process.communicate(timeout=30) for process in self._processes]
        for process, (_, err) in zip(self._processes, ended, strict=True):
            if process.returncode > 0:
                raise ProfileError(
                    f"no probe of how quiet the machine is: {err.decode(errors='replace').strip()}"
                )
        return [out for out, _ in ended]

    def quiet(self, begin_s: _Floats, end_s: _Floats) -> NDArray[np.bool_]:
        """Of pieces of work from ``begin_s`` to ``end_s`` (perf_counter): was nothing disturbed in them, nor
        in the 0.1 s before?"""
        first = np.searchsorted(self._disturbances, begin_s - _AFTER_S)
        return first == np.searchsorted(self._disturbances, end_s, side="right")


def disturbances(due_s: _Floats, woken_s: _Floats, taken_s: _Floats) -> _Floats:
    """When probes of one core were late or slow, given when each was due, when it woke, and what it took."""
    late = woken_s - due_s > _LATE_S
    padded = np.pad(taken_s, _NEIGHBORS // 2, mode="reflect")
    around = np.median(sliding_window_view(padded, _NEIGHBORS), axis=1)
    slow = around > _SLOWER * np.median(taken_s)
    return np.sort(np.concatenate([due_s[late], woken_s[late], woken_s[slow]]))


def _watch(core: int) -> None:
    """Say that it begins, probe until SIGTERM, then write [3, n]: due, woken, taken."""
    settings = realtime.RealtimeSettings(cpu_affinity=(core,), fifo_priority=_PRIORITY)
    refused = [str(each) for each in realtime.apply(settings) if not each.achieved]
    if refused:
        sys.exit("; ".join(refused))
    ended = Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    gc.disable()
    clock, tries, steps = time.perf_counter, range(4), range(400)
    due_s, woken_s, taken_s = array.array("d"), array.array("d"), array.array("d")
    print(flush=True)
    due = clock()
    while not ended.is_set():
        due += _PERIOD_S
        time.sleep(max(0.0, due - clock()))
        woken_s.append(clock())
        taken = []
        for _ in tries:
            began = clock()
            for _ in steps:
                pass
            taken.append(clock() - began)
        # Of the others, one had cold caches, another an interrupt.
        taken_s.append(min(taken))
        due_s.append(due)
    # np.save takes no pipe that has a buffer.
    sys.stdout.buffer.write(np.array([due_s, woken_s, taken_s]).tobytes())


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
