"""A pipeline with a fake model, and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame
from tests.runtime.fakes import FakeModel


class Served:
    """A started pipeline with a fake model, its results and its errors."""

    def __init__(self, model: FakeModel, on_result: Callable[[Result], None] | None, **options: Any) -> None:
        self.model = model
        self.results: list[Result] = []
        self.errors: list[tuple[Exception, Frame | None]] = []
        options.setdefault("on_calibration", self._judged)
        options.setdefault("on_error", lambda error, about: self.errors.append((error, about)))
        self.pipeline = Pipeline(lambda: model, on_result=on_result or self.results.append, **options)

    def _judged(self, result: Result) -> None:
        if self.results:
            assert self.results[-1].sequence == result.sequence
            self.results[-1] = result

    def feed(self, *frames: Frame) -> None:
        """Submit frames one by one, each after the previous result."""
        for each in frames:
            self.pipeline.submit(each)
            assert self.pipeline.wait_idle(5.0)


@contextmanager
def serve(
    model: FakeModel | None = None, *, on_result: Callable[[Result], None] | None = None, **options: Any
) -> Iterator[Served]:
    served = Served(model or FakeModel(), on_result, **options)
    with served.pipeline:
        yield served
