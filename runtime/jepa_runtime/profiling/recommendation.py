"""The recommendation: the largest model of a family that keeps a deadline on this machine.

All models are open at once and measured in turns of some seconds, so that other programs and the clocks of
the machine affect all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Literal

import numpy as np

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.load_generator import LoadGenerator
from jepa_runtime.profiling.profile import Run
from jepa_runtime.profiling.run_statistics import late_frames, responses
from jepa_runtime.util.statistics import Summary, summarize

_TURN_S = 5.0

Verdict = Literal["keeps the deadline", "misses the deadline", "too few frames", "cannot run"]
"""What was found about one model. A p99 above the deadline misses it."""


@dataclass(frozen=True)
class Timing:
    """The response times of one model, see :func:`~jepa_runtime.profiling.run_statistics.responses`.

    Attributes:
        response: Their summary [ms].
        late: Number of frames without a result before the deadline.
        verdict: Whether p99 is within the deadline.
    """

    response: Summary
    late: int
    verdict: Verdict


def count_turns(duration_s: float) -> int:
    """Return the number of turns of each model, which last ``duration_s`` together."""
    return max(1, round(duration_s / _TURN_S))


def measure_in_turns(
    loads: Mapping[int, LoadGenerator],
    *,
    rate_hz: float,
    duration_s: float,
    deadline_ms: float,
    stopping: Event,
    tick: Callable[[], None] = lambda: None,
) -> dict[int, Timing]:
    """Measure models at a rate in open loop, one after the other, several times.

    Args:
        loads: Open models under any keys.
        rate_hz: The rate of the frames.
        duration_s: Time for each model.
        deadline_ms: The deadline of a frame.
        stopping: When it is set, the measurement ends; the frames until then count.
        tick: Called after each turn of a model.

    Returns:
        The timing of each model.

    Raises:
        ProfileError: No frame of a turn was processed.
    """
    turns = count_turns(duration_s)
    runs: dict[int, list[Run]] = {key: [] for key in loads}
    for key in [key for _ in range(turns) for key in loads]:
        try:
            run = loads[key].open_loop(
                rate_hz, duration_s / turns, deadline_ms=deadline_ms, align_stamps=True
            )
        except ProfileError:
            if not stopping.is_set():
                raise
            break
        runs[key].append(run)
        tick()
        if stopping.is_set():
            break
    return {key: _timing(done, deadline_ms) for key, done in runs.items()}


def _timing(runs: Sequence[Run], deadline_ms: float) -> Timing:
    response = summarize(np.concatenate([[], *map(responses, runs)]))
    late = [late for run in runs if (late := late_frames(run, deadline_ms)) is not None]
    verdict: Verdict = "too few frames"
    if response.p99 is not None:
        verdict = "keeps the deadline" if response.p99 <= deadline_ms else "misses the deadline"
    return Timing(response, sum(int(flags.sum()) for flags in late), verdict)
