"""The passes of ``jepa-runtime profile`` in addition to the main one.

A pass that fails becomes a note in the profile; it does not discard earlier measurements.
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

_IDLE_GAPS = ((0.1, 10), (1.0, 5), (10.0, 2))
SWEEP_S = 4.0
_CLOSED_S = 5.0
_LAYER_RUNS = 30
_COLD_STARTS = 3


class Passes:
    """Runs passes and collects their results.

    Args:
        requested: Names from :data:`PASSES`. The sweep includes the closed loop, which determines its rates.
        steps: Shows the current pass.
        stopping: When it is set, the current pass ends and no other begins.
        cache_dir: See :class:`~jepa_runtime.backends.base.BackendOptions`.

    Attributes:
        found: Fields of the profile.
    """

    def __init__(
        self, requested: Collection[str], steps: Steps, stopping: Event, cache_dir: Path | None
    ) -> None:
        self.found: dict[str, Any] = {}
        self._requested = {*requested, "closed"} if "sweep" in requested else set(requested)
        self._steps = steps
        self._stopping = stopping
        self._cache_dir = cache_dir
        self._failures: list[str] = []
        self._skipped: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Which requested passes were not measured, and why."""
        stopped = f"{', '.join(dict.fromkeys(self._skipped))}: not measured: stopped before"
        return [*self._failures, *([stopped] if self._skipped else [])]

    def under_load(self, load: LoadGenerator) -> None:
        """Run the passes that use the running pipeline."""
        self._attempt("closed", partial(self._closed, load))
        self._attempt("sweep", partial(self._sweep, load))
        for gap_s, repetitions in _IDLE_GAPS:
            title = f"idle gaps of {gap_s:g} s"
            self._attempt("idle", partial(self._idle, load, gap_s, repetitions, title), title)

    def standalone(self, bundle: Bundle, subject: Subject) -> None:
        """Run the passes that open the model again, with the engine and precision of ``subject``.

        Raises:
            ProfileError: The model computes NaN or infinity.
        """
        self._parity(bundle, subject)
        self._attempt("cold", partial(self._cold, bundle, subject))
        self._attempt("layers", partial(self._layers, bundle, subject))

    def _attempt(self, name: str, measure: Callable[[], None], title: str = "") -> None:
        if name not in self._requested:
            return
        if self._stopping.is_set():
            self._skipped.append(name)
            return
        try:
            measure()
        except JepaRuntimeError as error:
            self._failures.append(f"{title or name}: not measured: {error}")

    def _closed(self, load: LoadGenerator) -> None:
        self._steps.say("closed loop")
        self.found["closed_loop"] = load.closed_loop(_CLOSED_S)

    def _sweep(self, load: LoadGenerator) -> None:
        closed = self.found.get("closed_loop")
        if closed is None:
            raise ProfileError(
                "the closed loop failed, so the highest rate is unknown", code="profile.no_closed_loop"
            )
        fastest_hz = len(closed.scheduled_s) / closed.duration_s
        self.found["sweep"] = load.sweep(
            fastest_hz,
            SWEEP_S,
            tick=lambda rate_hz: self._steps.say(f"sweep: {rate_hz:g} Hz"),
            on_early_end=lambda why: self._failures.append(f"sweep: {why}"),
        )

    def _idle(self, load: LoadGenerator, gap_s: float, repetitions: int, title: str) -> None:
        self._steps.say(title)
        gap = load.idle_gap(gap_s, repetitions)
        if not gap.latency_ms:
            raise ProfileError("stopped", code="profile.stopped")
        self.found.setdefault("idle_gaps", []).append(gap)

    def _parity(self, bundle: Bundle, subject: Subject) -> None:
        measured: list[verification.Parity] = []

        def measure() -> None:
            self._steps.say("parity")
            measured.extend(
                verification.golden_parity(
                    bundle,
                    engine=_engine_spec(subject),
                    precision=subject.precision,
                    options=self._options(subject),
                )
            )

        self._attempt("parity", measure)
        for parity in measured:
            if math.isnan(parity.max_abs):
                raise ProfileError(
                    f"{bundle.path}: {parity.fault}: its latency would be meaningless; run `jepa-runtime "
                    "verify`",
                    code="profile.wrong_outputs",
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
            bundle=bundle.path, engine=_engine_spec(subject), precision=subject.precision,
            num_samples=subject.futures, threads=subject.threads, cache_dir=self._cache_dir,
        )  # fmt: skip
        tick = self._steps.counter("cold starts", len(cold_start.cache_states(start.engine)) * _COLD_STARTS)
        self.found["cold_starts"] = cold_start.measure(
            start, stopping=self._stopping, repetitions=_COLD_STARTS, tick=tick
        )

    def _layers(self, bundle: Bundle, subject: Subject) -> None:
        self._steps.say("layers")
        backend = create_backend(_engine_spec(subject), self._options(subject))
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


def _engine_spec(subject: Subject) -> str:
    """Return the engine and device that were used, of those that were allowed."""
    return f"{subject.engine}:{subject.device}"
