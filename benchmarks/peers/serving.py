"""The protocol of the peers: each is a process that opens the model once and then, for each number it
receives, computes that number of frames one after the other and reports their times.

It reads one number per line and answers in lines of JSON: first ``{"ready": facts}``, or ``{"absent":
reason}`` before it exits; then for each number ``latency_ms`` and ``stages_ms`` of every frame, ``cpu_s``
(user and system, all threads) of those frames together, and ``peak_rss_mb`` so far. It exits at the end of
its standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime import Bundle
from jepa_runtime.bundle import Tolerance
from jepa_runtime.commands import frame_size
from jepa_runtime.imaging import resize_into
from jepa_runtime.planning import default_candidates
from jepa_runtime.telemetry import peak_rss_mb

# Frames before the counted ones of a round, which warm up caches and clocks.
WARM_UP = 10
STAGES = ("preprocess", "encode", "predict")
_DISTINCT = 8
# A bundle without variants in bf16 states no tolerance for it.
_OF_BF16 = Tolerance(min_cosine=0.99, max_abs=0.3)


class AbsentError(Exception):
    """This peer cannot run this bundle here; the message says why."""


class DifferentError(Exception):
    """A peer does not compute the outputs of the model."""


@dataclass(frozen=True)
class Task:
    """Input of every peer. ``images``: uint8 [n, h, w, 3] RGB, used in turn; ``actions``: [K, H, A]."""

    bundle: Bundle
    precision: str
    threads: int
    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    options: list[str]

    @classmethod
    def read(cls) -> Task:
        """Return the task from the command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--bundle", type=Path, required=True)
        parser.add_argument("--precision", required=True)
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--size", type=frame_size, required=True)
        arguments, options = parser.parse_known_args()
        bundle = Bundle.open(arguments.bundle)
        width, height = arguments.size
        images = np.random.default_rng(0).integers(0, 256, (_DISTINCT, height, width, 3), np.uint8)
        return cls(
            bundle,
            arguments.precision,
            arguments.threads,
            images,
            default_candidates(bundle.manifest),
            options,
        )

    def graph(self, role: str, target: str) -> Path:
        """Return the file of a graph.

        Raises:
            AbsentError: The bundle has none for this target and precision.
        """
        for variant in self.bundle.manifest.graphs.variants(role):  # type: ignore[arg-type]
            if (variant.target, variant.precision) == (target, self.precision):
                return self.bundle.path / variant.path
        raise AbsentError(f"the bundle has no {target} graph in {self.precision}")

    def inputs(self, role: str) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Yield the golden inputs of the encoder or the predictor, by name and in order, for calibration.

        Those of the predictor have the number of candidates that is timed.
        """
        golden = self.bundle.golden()
        if role == "encoder":
            yield from ({"frame": frame[None]} for frame in golden.frames)
            return
        actions = np.resize(golden.actions, self.actions.shape)
        for history in golden.history_indices(self.bundle.manifest.history_size):
            given = {"history_latents": golden.latents[history][None], "actions": actions}
            if golden.history_actions is not None:
                given["history_actions"] = golden.history_actions[None]
            yield given


class Server(Protocol):
    """A peer. ``facts``: its first answer; ``run(count)``: the answer for ``count`` frames."""

    facts: dict[str, Any]

    def run(self, count: int) -> dict[str, Any]: ...


class Model(Protocol):
    """Encoder and predictor in a library. Arrays are float32, except for the frame."""

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode a frame: [1, H, W, 3] -> [1, T, D]."""

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict futures: [1, W, T, D], [K, H, A], [1, W-1, A] (None if W is 1) -> [K, H, T, D]."""


class InTurn:
    """Serve a :class:`Model`: resize a frame, encode it, predict from the last latents.

    Raises:
        DifferentError: The model does not compute the golden outputs of the bundle.
    """

    def __init__(self, task: Task, open_model: Callable[[Task], Model]) -> None:
        manifest = task.bundle.manifest
        began = time.perf_counter()
        self._model = open_model(task)
        opened = time.perf_counter()
        self._task = task
        self._fitted = np.zeros((1, manifest.io.frame.height, manifest.io.frame.width, 3), np.uint8)
        latent = (manifest.io.latent.tokens, manifest.io.latent.dim)
        self._latents = np.zeros((1, manifest.history_size, *latent), np.float32)
        past = np.zeros((1, manifest.history_size - 1, manifest.action_size), np.float32)
        self._past = past if manifest.history_size > 1 else None
        self._frame(task.images[0])
        first_s = time.perf_counter() - opened
        self._check()
        self.facts: dict[str, Any] = {"open_s": round(opened - began, 3), "first_frame_s": round(first_s, 3)}

    def run(self, count: int) -> dict[str, Any]:
        """See :class:`Server`."""
        images = self._task.images
        for index in range(WARM_UP):
            self._frame(images[index % len(images)])
        cpu_s = time.process_time()
        clocks = [self._frame(images[index % len(images)]) for index in range(count)]
        cpu_s = time.process_time() - cpu_s
        stages = np.diff(np.array(clocks), axis=1) * 1e3
        return {
            "latency_ms": stages.sum(axis=1).tolist(),
            "stages_ms": dict(zip(STAGES, stages.T.tolist(), strict=True)),
            "cpu_s": cpu_s,
            "peak_rss_mb": peak_rss_mb(),
        }

    def _frame(self, image: NDArray[np.uint8]) -> tuple[float, ...]:
        """Process one image and return its start and the end of each stage [s]."""
        began = time.perf_counter()
        resize_into(image, self._fitted[0])
        fitted = time.perf_counter()
        latent = self._model.encode(self._fitted)
        encoded = time.perf_counter()
        self._latents = np.concatenate([self._latents[:, 1:], latent[None]], axis=1)
        self._model.predict(self._latents, self._task.actions, self._past)
        return began, fitted, encoded, time.perf_counter()

    def _check(self) -> None:
        manifest, golden = self._task.bundle.manifest, self._task.bundle.golden()
        count = min(len(golden.actions), len(self._task.actions))
        # The number of candidates that is timed: a compiler creates another program for another number.
        actions = np.resize(golden.actions, self._task.actions.shape)
        past = self._past if golden.history_actions is None else golden.history_actions[None]
        for number, history in enumerate(golden.history_indices(manifest.history_size)):
            latent, futures = golden.latents[number], golden.futures[number]
            self._compare("encoder", self._model.encode(golden.frames[number][None])[0], latent)
            predicted = self._model.predict(golden.latents[history][None], actions, past)
            self._compare("predictor", predicted[:count, : manifest.horizon], futures[:count])

    def _compare(self, graph: str, actual: NDArray[np.float32], golden: NDArray[np.float32]) -> None:
        tolerances: dict[str, Tolerance] = dict(self._task.bundle.manifest.golden.tolerances)
        tolerance = tolerances.get(self._task.precision, _OF_BF16)
        norms = np.linalg.norm(actual, axis=-1) * np.linalg.norm(golden, axis=-1)
        cosine = float(((actual * golden).sum(-1) / np.maximum(norms, 1e-12)).min())
        difference = float(np.abs(actual - golden).max())
        if not (cosine >= tolerance.min_cosine and difference <= tolerance.max_abs):
            raise DifferentError(
                f"its {graph} does not match that of the bundle (worst cosine {cosine:.5f}, largest "
                f"difference {difference:.4f}): times of another model are not comparable"
            )


def serve(open_server: Callable[[Task], Server]) -> None:
    """Serve requests until the end of standard input."""
    # Libraries print to standard output; the channel is for answers only.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    try:
        server = open_server(Task.read())
    except AbsentError as error:
        send({"absent": str(error)})
        return
    send({"ready": server.facts})
    for line in sys.stdin:
        send(server.run(int(line)))
