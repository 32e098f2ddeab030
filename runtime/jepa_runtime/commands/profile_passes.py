"""The passes of ``jepa-runtime profile`` beside the main one.

What one of them cannot measure becomes a note: it must not take with it what was measured before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.profile_view import Steps
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.model import parity as verification
from jepa_runtime.model.compiled_graphs import graphs
from jepa_runtime.profiling import cold_start
from jepa_runtime.profiling.load_generator import LoadGenerator
from jepa_runtime.profiling.profile import Layer, Parity, Subject

PASSES = ("parity", "closed", "sweep", "cold", "idle", "layers")
_IDLE_GAPS = ((0.1, 10), (1.0, 5), (10.0, 2))
SWEEP_S = 4.0
_CLOSED_S = 5.0
_LAYER_RUNS = 30
_COLD_STARTS = 3


class Passes:
    """Runs passes and keeps what they found.

    Args:
        asked: which, of :data:`PASSES`; the sweep takes the closed loop with it, which tells what to sweep.
        steps: told what is being done.
        stopping: set from elsewhere: the pass in work ends, and no other begins.
        cache_dir: see :class:`~jepa_runtime.backends.base.BackendOptions`.

    Attributes:
        found: fields of the profile.
    """

    def __init__(self, asked: Collection[str], steps: Steps, stopping: Event, cache_dir: Path | None) -> None:
        self.found: dict[str, Any] = {}
        self._asked = {*asked, "closed"} if "sweep" in asked else set(asked)
        self._steps = steps
        self._stopping = stopping
        self._cache_dir = cache_dir
        self._failures: list[str] = []
        self._left_out: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What was asked for and not measured, and why."""
        stopped = f"{', '.join(dict.fromkeys(self._left_out))}: not measured: it was stopped before"
        return [*self._failures, *([stopped] if self._left_out else [])]

    def under_load(self, load: LoadGenerator) -> None:
        """Those that load the open pipeline in other ways."""
        self._attempt("closed", partial(self._closed, load))
        self._attempt("sweep", partial(self._sweep, load))
        for gap_s, repetitions in _IDLE_GAPS:
            what = f"idle gaps of {gap_s:g} s"
            self._attempt("idle", partial(self._idle, load, gap_s, repetitions, what), what)

    def by_themselves(self, bundle: Bundle, subject: Subject) -> None:
        """Those that open the model anew, as ``subject`` says that it served.

        Raises:
            ProfileError: the model computes NaN or infinity.
        """
        self._parity(bundle, subject)
        self._attempt("cold", partial(self._cold, bundle, subject))
        self._attempt("layers", partial(self._layers, bundle, subject))

    def _attempt(self, name: str, measure: Callable[[], None], what: str = "") -> None:
        if name not in self._asked:
            return
        if self._stopping.is_set():
            self._left_out.append(name)
            return
        try:
            measure()
        except JepaRuntimeError as error:
            self._failures.append(f"{what or name}: not measured: {error}")

    def _closed(self, load: LoadGenerator) -> None:
        self._steps.say("closed loop")
        self.found["closed_loop"] = load.closed_loop(_CLOSED_S)

    def _sweep(self, load: LoadGenerator) -> None:
        closed = self.found.get("closed_loop")
        if closed is None:
            raise ProfileError("the closed loop did not tell the highest rate")
        fastest_hz = len(closed.scheduled_s) / closed.duration_s
        self.found["sweep"] = load.sweep(
            fastest_hz,
            SWEEP_S,
            tick=lambda rate_hz: self._steps.say(f"sweep: {rate_hz:g} Hz"),
            ended=lambda why: self._failures.append(f"sweep: {why}"),
        )

    def _idle(self, load: LoadGenerator, gap_s: float, repetitions: int, what: str) -> None:
        self._steps.say(what)
        gap = load.idle_gap(gap_s, repetitions)
        if not gap.latency_ms:
            raise ProfileError("it was stopped")
        self.found.setdefault("idle_gaps", []).append(gap)

    def _parity(self, bundle: Bundle, subject: Subject) -> None:
        measured: list[verification.Parity] = []

        def measure() -> None:
            self._steps.say("parity")
            measured.extend(
                verification.golden_parity(
                    bundle,
                    engine=_serving(subject),
                    precision=subject.precision,
                    options=self._options(subject),
                )
            )

        self._attempt("parity", measure)
        for parity in measured:
            if math.isnan(parity.max_abs):
                raise ProfileError(
                    f"{bundle.path}: {parity.fault}: how fast it does so says nothing; see jepa-runtime "
                    "verify"
                )
        self.found["parity"] = [
            Parity(
                graph=parity.graph, mean_cosine=parity.mean_cosine, worst_cosine=parity.min_cosine,
                max_abs=parity.max_abs, ok=parity.ok,
            )
            for parity in measured
        ]  # fmt: skip

    def _cold(self, bundle: Bundle, subject: Subject) -> None:
        start = cold_start.Start(
            bundle=bundle.path, engine=_serving(subject), precision=subject.precision,
            num_samples=subject.futures, threads=subject.threads, cache_dir=self._cache_dir,
        )  # fmt: skip
        tick = self._steps.counter("cold starts", len(cold_start.caches(start.engine)) * _COLD_STARTS)
        self.found["cold_starts"] = cold_start.measure(
            start, stopping=self._stopping, repetitions=_COLD_STARTS, tick=tick
        )

    def _layers(self, bundle: Bundle, subject: Subject) -> None:
        self._steps.say("layers")
        backend = create_backend(_serving(subject), self._options(subject))
        try:
            self.found["layers"] = [
                Layer(
                    graph=role, name=layer.name, kind=layer.kind, implementation=layer.implementation,
                    mean_ms=round(layer.mean_ms, 6),
                )
                for role, (graph, shapes) in graphs(
                    bundle, backend, subject.precision or "", subject.futures or 1
                ).items()
                for layer in backend.layer_times(graph, shapes, _LAYER_RUNS)
            ]  # fmt: skip
        finally:
            backend.close()

    def _options(self, subject: Subject) -> BackendOptions:
        return BackendOptions(threads=subject.threads, cache_dir=self._cache_dir)


def _serving(subject: Subject) -> str:
    """The engine that served, where several were allowed."""
    return f"{subject.engine}:{subject.device}"
