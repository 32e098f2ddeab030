"""Detection of a quiet machine: a probe next to a measurement, which our own work cannot slow down.

On each core a process of the highest priority wakes every 2 ms for 15 us. It preempts everything of lower
priority, so only two things disturb it: other use of the core that this system cannot see (another virtual
machine, a neighbor on the same physical core, firmware), and kernel code that cannot be preempted. Then the
probe wakes late, as measured by cyclictest of the rt-tests, or its few instructions take longer than usual.
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
# 0.03 ms is usual.
_LATE_S = 0.00015
# Number of consecutive probes whose median counts, and its limit relative to the usual duration: a neighbor
# on the core makes it 1.6 to 2 times as long.
_NEIGHBORS, _SLOWER = 5, 1.4
# Delayed work delays what follows it.
_AFTER_S = 0.1

_Floats = NDArray[np.float64]


class Probe:
    """Watch ``cores`` while the context is open.

    Raises:
        ProfileError: Real-time priority is not permitted.
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
        # Each prints a line when it has started.
        if not all([process.stdout.readline() for process in self._processes if process.stdout]):
            self._end()
        return self

    def __exit__(self, *_: object) -> None:
        reported = [disturbances(*np.frombuffer(out).reshape(3, -1)) for out in self._end()]
        self._disturbances = np.sort(np.concatenate(reported))

    def _end(self) -> list[bytes]:
        for process in self._processes:
            process.terminate()
        outputs = [process.communicate(timeout=30) for process in self._processes]
        for process, (_, err) in zip(self._processes, outputs, strict=True):
            if process.returncode > 0:
                raise ProfileError(
                    f"no probe of how quiet the machine is: {err.decode(errors='replace').strip()}"
                )
        return [out for out, _ in outputs]

    def quiet(self, begin_s: _Floats, end_s: _Floats) -> NDArray[np.bool_]:
        """Return for each interval from ``begin_s`` to ``end_s`` (perf_counter) whether it was undisturbed.

        That includes the 0.1 s before it.
        """
        first = np.searchsorted(self._disturbances, begin_s - _AFTER_S)
        return first == np.searchsorted(self._disturbances, end_s, side="right")


def disturbances(due_s: _Floats, woken_s: _Floats, taken_s: _Floats) -> _Floats:
    """Return the times of late or slow probes of one core, from their due times, wake times and durations."""
    late = woken_s - due_s > _LATE_S
    padded = np.pad(taken_s, _NEIGHBORS // 2, mode="reflect")
    around = np.median(sliding_window_view(padded, _NEIGHBORS), axis=1)
    slow = around > _SLOWER * np.median(taken_s)
    return np.sort(np.concatenate([due_s[late], woken_s[late], woken_s[slow]]))


def _watch(core: int) -> None:
    """Print a line, probe until SIGTERM, then write [3, n]: due times, wake times, durations."""
    settings = realtime.RealtimeSettings(cpu_affinity=(core,), fifo_priority=_PRIORITY)
    failed = [str(each) for each in realtime.apply(settings) if not each.achieved]
    if failed:
        sys.exit("; ".join(failed))
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    gc.disable()
    clock, tries, steps = time.perf_counter, range(4), range(400)
    due_s, woken_s, taken_s = array.array("d"), array.array("d"), array.array("d")
    print(flush=True)
    due = clock()
    while not stopped.is_set():
        due += _PERIOD_S
        time.sleep(max(0.0, due - clock()))
        woken_s.append(clock())
        taken = []
        for _ in tries:
            began = clock()
            for _ in steps:
                pass
            taken.append(clock() - began)
        # The others include cold caches or interrupts.
        taken_s.append(min(taken))
        due_s.append(due)
    # np.save does not support a buffered pipe.
    sys.stdout.buffer.write(np.array([due_s, woken_s, taken_s]).tobytes())


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
