"""A process that serves from the folder of a robot: real pipeline, real socket, real updates; its models are
toys with injected faults in service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.run_robot import Follower
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota.health.serving_socket import LocalServing
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.serving.pipeline import Pipeline
from jepa_runtime.sources.base import Frame
from tests.ota.robots import Site

Happens = Callable[[int], None]


class Model:
    """A real model with an injected fault at each frame; the first frame is its warm-up."""

    def __init__(self, model: WorldModel, happens: Happens) -> None:
        self._model, self._happens, self._frames = model, happens, -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, image: Any) -> Any:
        self._frames += 1
        began = time.perf_counter()
        if self._frames:
            self._happens(self._frames)
        latent = self._model.encode(image)
        self._model.timings["encode"] = (time.perf_counter() - began) * 1e3
        return latent


@contextmanager
def running(
    root: Path,
    happens: Mapping[str, Happens] | None = None,
    *,
    opens: Callable[[str], None] = lambda version: None,
    rate_hz: float = 50.0,
    deadline_ms: float = 1000.0,
    end: Callable[[str], None] = lambda why: None,
) -> Iterator[Pipeline]:
    """Serve from ``root``.

    Args:
        happens: Called with the version at each frame.
        opens: Called with each version that is opened; may raise.
        end: Called with the reason why the process would end.
    """

    def open_model(bundle: Bundle) -> Any:
        version = bundle.manifest.version
        opens(version)
        return Model(WorldModel.open(bundle), (happens or {}).get(version, lambda _: None))

    follower = Follower(root, open_model, deadline_ms=deadline_ms, end=end)
    ending = threading.Event()
    pipeline = Pipeline(
        follower.open,
        on_model=lambda model, _: follower.serves(model),
        on_result=follower.result,
        on_error=lambda error, frame: follower.failed(error) if frame else None,
        deadline_ms=deadline_ms,
    )

    def feed() -> None:
        io = pipeline.model.manifest.io
        image, number = np.zeros((io.frame.height, io.frame.width, 3), np.uint8), 0
        while not ending.wait(1 / rate_hz):
            number, now = number + 1, time.monotonic_ns()
            pipeline.add_action(now, np.zeros(len(io.action.names), np.float32))
            pipeline.submit(Frame(image, now, "camera", number))

    with follower.answering():
        pipeline.start()
        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            with follower.following(pipeline):
                yield pipeline
        finally:
            ending.set()
            feeding.join()
            pipeline.stop()


def update(site: Site, **arguments: Any) -> Any:
    return site.update(serving=LocalServing(site.root, gone_s=1.0), clock=time, **arguments)


def served(site: Site) -> str:
    active = LocalServing(site.root).health().serves
    assert active
    return Bundle.open(SlotStore(site.root).folder(active)).manifest.version
