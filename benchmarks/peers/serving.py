"""What the peers have in common: each is a process that opens the model once and then, for each number of
frames that it is sent, computes that many one after the other and reports their times.

It reads one number per line. It answers in lines of JSON: first ``{"ready": facts}``, or ``{"absent": why}``
and the end; then for each number ``latency_ms`` and ``stages_ms`` of every frame, ``cpu_s`` (user and system,
all threads) of those frames together, and ``peak_rss_mb`` so far. It ends with its standard input.
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

# Frames before the counted ones of a round: caches and clocks were others' until then.
WARM_UP = 10
STAGES = ("preprocess", "encode", "predict")
_DISTINCT = 8
# A bundle without variants in bf16 states no tolerance for it.
_OF_BF16 = Tolerance(min_cosine=0.99, max_abs=0.3)


class AbsentError(Exception):
    """This peer cannot run this bundle here; the message says why."""


class DifferentError(Exception):
    """A peer computes something else than the model."""


@dataclass(frozen=True)
class Task:
    """What every peer is given. ``images``: uint8 [n, h, w, 3] RGB, shown in turn; ``actions``: [K, H, A]."""

    bundle: Bundle
    precision: str
    threads: int
    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    options: list[str]

    @classmethod
    def read(cls) -> Task:
        """The task as the command line tells it."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--bundle", type=Path, required=True)
        parser.add_argument("--precision", required=True)
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--size", type=frame_size, required=True)
        known, options = parser.parse_known_args()
        bundle = Bundle.open(known.bundle)
        width, height = known.size
        images = np.random.default_rng(0).integers(0, 256, (_DISTINCT, height, width, 3), np.uint8)
        return cls(
            bundle, known.precision, known.threads, images, default_candidates(bundle.manifest), options
        )

    def graph(self, role: str, target: str) -> Path:
        """The file of a graph.

        Raises:
            AbsentError: the bundle has none for this target and precision.
        """
        for variant in self.bundle.manifest.graphs.variants(role):  # type: ignore[arg-type]
            if (variant.target, variant.precision) == (target, self.precision):
                return self.bundle.path / variant.path
        raise AbsentError(f"the bundle has no {target} graph in {self.precision}")

    def inputs(self, role: str) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The golden inputs of the encoder or the predictor, by name and in their order, for those who
        calibrate; the predictor's with as many candidates as are timed."""
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
    """``facts``: what is to be known of it; ``run(count)``: the answer for that many frames."""

    facts: dict[str, Any]

    def run(self, count: int) -> dict[str, Any]: ...


class Model(Protocol):
    """Encoder and predictor as a library runs them. Arrays are float32 but for the frame."""

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[1, H, W, 3] -> [1, T, D]"""

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """[1, W, T, D], [K, H, A], [1, W-1, A] (None where W is 1) -> [K, H, T, D]"""


class InTurn:
    """Serves a :class:`Model`: scales a frame, encodes it, predicts from the last latents.

    Raises:
        DifferentError: the model does not compute the golden outputs of the bundle.
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
        """When it came and when each stage of it was done [s]."""
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
        # As many candidates as are going to be timed: of another number a compiler makes another program.
        actions = np.resize(golden.actions, self._task.actions.shape)
        past = self._past if golden.history_actions is None else golden.history_actions[None]
        for number, history in enumerate(golden.history_indices(manifest.history_size)):
            latent, futures = golden.latents[number], golden.futures[number]
            self._compare("encoder", self._model.encode(golden.frames[number][None])[0], latent)
            predicted = self._model.predict(golden.latents[history][None], actions, past)
            self._compare("predictor", predicted[:count, : manifest.horizon], futures[:count])

    def _compare(self, graph: str, found: NDArray[np.float32], golden: NDArray[np.float32]) -> None:
        tolerances: dict[str, Tolerance] = dict(self._task.bundle.manifest.golden.tolerances)
        tolerance = tolerances.get(self._task.precision, _OF_BF16)
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(golden, axis=-1)
        cosine = float(((found * golden).sum(-1) / np.maximum(norms, 1e-12)).min())
        difference = float(np.abs(found - golden).max())
        if not (cosine >= tolerance.min_cosine and difference <= tolerance.max_abs):
            raise DifferentError(
                f"its {graph} does not compute what the bundle's does (worst cosine {cosine:.5f}, largest "
                f"difference {difference:.4f}): times of another model would not compare"
            )


def serve(open_server: Callable[[Task], Server]) -> None:
    """Be a peer until standard input ends."""
    # Libraries print what they like; the channel is for answers only.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=channel, flush=True)

    try:
        server = open_server(Task.read())
    except AbsentError as error:
        tell({"absent": str(error)})
        return
    tell({"ready": server.facts})
    for line in sys.stdin:
        tell(server.run(int(line)))
