"""One run, out of its bag: what was seen, what was foreseen at a few moments, and how well all that held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import image_in
from jepa_runtime.recording.messages import array_of
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.sources.command_fields import CommandFields
from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.bag_topics import Topics, find_topics
from jepa_runtime.visualization.embedding import Image, Latents
from jepa_runtime.visualization.prediction_errors import Moment, PredictionErrors, PredictionScorer
from jepa_runtime.visualization.predictions import Predictions, check_finite, stamp_of

_MOST_LATENT_BYTES = 1 << 29
_MOST_PICTURES = 3000


@dataclass(frozen=True)
class Facts:
    """Which model served, and what its numbers mean."""

    model: str
    engine: str
    sha256: str
    step_s: float
    horizon: int
    action_names: tuple[str, ...]
    action_range: float


@dataclass(frozen=True)
class Series:
    """Something over time: ``times_s`` [n] after the first frame, ``values`` [n]."""

    times_s: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What a bag tells.

    Attributes:
        name, prefix, namespace: the bag, the world model in it, and what all names of its robot begin with.
        start_ns: the stamp of the first frame.
        stamps_ns: [N] of the frames; ``latents`` [N, T, D] of them.
        pictured: [M], which of the frames have an image in the ``atlas``, in the same order.
        atlas: made of this run.
        frames: how many there were; N where no frame had to be left out.
        goals: stamp and JPEG of each goal.
        surprise, threshold: values and what they were held against.
        energy: of the present to the goal.
        latency_ms: by what was measured.
        errors: how far predictions lay from what came.
        moments: a few from which futures are shown.
        outcomes: how episodes ended, and when [s].
    """

    name: str
    prefix: str
    namespace: str
    facts: Facts
    start_ns: int
    stamps_ns: NDArray[np.int64]
    latents: Latents
    pictured: NDArray[np.intp]
    atlas: Atlas
    frames: int
    goals: tuple[tuple[int, bytes], ...]
    surprise: Series
    threshold: Series
    energy: Series
    latency_ms: dict[str, Series]
    errors: PredictionErrors
    moments: tuple[Moment, ...]
    outcomes: tuple[tuple[float, str], ...]

    @property
    def duration_s(self) -> float:
        """From the first frame to the last."""
        return float(self.stamps_ns[-1] - self.stamps_ns[0]) / 1e9

    def picture(self, frame: int) -> Image:
        """The image of a frame, or of the nearest in time that has one."""
        return self.atlas.image(int(np.abs(self.pictured - frame).argmin()))

    def goal_at(self, stamp_ns: int) -> bytes | None:
        """The JPEG of what was sought at a moment; None where nothing had been."""
        return next((jpeg for stamp, jpeg in reversed(self.goals) if stamp <= stamp_ns), None)


def read_run(
    path: Path,
    *,
    node: str | None = None,
    image: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Read a bag; it is gone through twice.

    Args:
        node, image: see :func:`~jepa_runtime.visualization.bag_topics.find_topics`.
        progress: told how many messages were read, and of how many.

    Raises:
        SourceError: it is no bag, is damaged, or lacks what a picture needs.
    """
    with BagFile(path) as bag:
        topics = find_topics(bag, node=node, image=image)
        return _Reading(bag, topics, progress).run()


class _Reading:
    """First what is small (latents, commands, figures), then images and futures; of those some are kept."""

    def __init__(self, bag: BagFile, topics: Topics, progress: Callable[[int, int], None]) -> None:
        self._bag, self._topics, self._progress = bag, topics, progress
        self._small = {
            topics.latent, topics.info, topics.surprise, topics.goal, topics.command, topics.planner,
            topics.episodes,
        }  # fmt: skip
        self._large = {topics.image, topics.futures}
        self._total = self._count(self._small | self._large)
        self._done = 0
        self._info: Any = None
        self._latents: dict[int, Latents] = {}
        self._frames = 0
        self._breaks: list[int] = []
        self._goals: list[tuple[int, bytes]] = []
        self._commands: list[tuple[int, Any]] = []
        self._points: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._outcomes: list[tuple[int, str]] = []
        self._images: dict[int, bytes] = {}

    def run(self) -> Run:
        self._read_small()
        if self._info is None or len(self._latents) < 2:
            raise SourceError(
                f"{self._bag.path}: {len(self._latents)} latents of {self._topics.prefix} are too few to draw"
            )
        shapes = {latent.shape for latent in self._latents.values()}
        if len(shapes) > 1:
            listed = ", ".join(map(str, sorted(shapes)))
            raise SourceError(
                f"{self._bag.path}: latents of several shapes, {listed}: the model was changed while it was "
                "recorded"
            )
        facts = _facts(self._info)
        stamps = np.array(sorted(self._latents), np.int64)
        latents = np.stack([self._latents[stamp] for stamp in stamps])
        judge = PredictionScorer(
            stamps,
            latents,
            commands=self._held_commands(facts.action_names),
            step_s=facts.step_s,
            breaks=np.array(sorted(self._breaks), np.int64),
            tolerance=0.1 * facts.action_range,
            expected=self._count({self._topics.futures}),
        )
        self._read_large(stamps, judge)
        pictured = np.flatnonzero(np.isin(stamps, list(self._images)))
        if not len(pictured):
            raise SourceError(
                f"{self._bag.path}: no image of {self._topics.image} has the stamp of a latent of "
                f"{self._topics.prefix}: choose its camera with --image"
            )
        lag = max(1, round(facts.horizon * facts.step_s / max(float(np.median(np.diff(stamps))) / 1e9, 1e-3)))
        images = [self._images[int(stamp)] for stamp in stamps[pictured]]
        atlas = Atlas.of(latents, pictured, images, lag)
        start = int(stamps[0])
        surprise, threshold, energy = (
            _since(start, self._points.pop(name, [])) for name in ("surprise", "threshold", "energy")
        )
        latency = {name: _since(start, points) for name, points in self._points.items()}
        return Run(
            name=self._bag.path.name,
            prefix=self._topics.prefix,
            namespace=self._topics.namespace,
            facts=facts,
            start_ns=start,
            stamps_ns=stamps,
            latents=latents,
            pictured=pictured,
            atlas=atlas,
            frames=self._frames,
            goals=tuple(self._goals),
            surprise=surprise,
            threshold=threshold,
            energy=energy,
            latency_ms={name: series for name, series in latency.items() if series.values.any()},
            errors=judge.errors(),
            moments=judge.moments(),
            outcomes=tuple(((stamp - start) / 1e9, outcome) for stamp, outcome in self._outcomes),
        )

    def _count(self, topics: set[str | None]) -> int:
        return sum(entry.msgcount for entry in self._bag.on(topics))

    def _messages(self, topics: set[str | None]) -> Any:
        for topic, log_ns, message in self._bag.read(topics):
            self._done += 1
            self._progress(self._done, self._total)
            yield topic, log_ns, message

    def _read_small(self) -> None:
        topics, every = self._topics, 1
        for topic, log_ns, message in self._messages(self._small):
            if topic == topics.latent:
                latent = self._latent(message)
                if not self._frames:
                    every = 1 + self._count({topic}) * latent.nbytes // _MOST_LATENT_BYTES
                self._take_latent(message, latent, keep=self._frames % every == 0)
            elif topic == topics.info:
                self._info = message
            elif topic == topics.surprise:
                if np.isfinite([message.value, message.threshold]).all():
                    self._points["surprise"].append((stamp_of(message), message.value))
                    self._points["threshold"].append((stamp_of(message), message.threshold))
            elif topic == topics.goal:
                self._breaks.append(stamp_of(message))
                if message.height and message.width:
                    self._goals.append((stamp_of(message), self._thumbnail(topic, message)))
            elif topic == topics.command:
                self._commands.append((log_ns, message))
            elif topic == topics.planner:
                self._points["image to futures in the planner"].append((stamp_of(message), message.e2e_ms))
            else:
                self._outcomes.append((stamp_of(message), message.outcome))

    def _latent(self, message: Any) -> Latents:
        try:
            latent = array_of(message.latent)
            check_finite(latent)
            return latent
        except ValueError as error:
            raise SourceError(f"{self._bag.path}: latent at {stamp_of(message)} ns: {error}") from error

    def _take_latent(self, message: Any, latent: Latents, *, keep: bool) -> None:
        stamp = stamp_of(message)
        self._frames += 1
        if message.history_reset and self._frames > 1:
            self._breaks.append(stamp)
        if keep:
            self._latents[stamp] = latent
        self._points["encode"].append((stamp, message.encode_ms))

    def _held_commands(self, names: tuple[str, ...]) -> Commands | None:
        """The commands as the model's actions; None where the bag has none that are."""
        if not self._commands:
            return None
        try:
            first = self._commands[0][1]
            fields = CommandFields(first.__msgtype__, names, first)
            values = np.array([fields.read(message) for _, message in self._commands])
            stamps = np.array([log_ns for log_ns, _ in self._commands])
            return Commands(fields.names, fields.units, stamps, values, max_age_s=1.0)
        except ValueError:
            return None

    def _read_large(self, stamps: NDArray[np.int64], judge: PredictionScorer) -> None:
        every = -(-len(stamps) // _MOST_PICTURES)
        wanted = {int(stamp) for stamp in stamps[::every]}
        for topic, _, message in self._messages(self._large):
            stamp = stamp_of(message)
            if topic == self._topics.image:
                if stamp in wanted:
                    self._images[stamp] = self._thumbnail(topic, message)
                continue
            try:
                foreseen = Predictions.of_message(message)
                judge.add(foreseen)
            except ValueError as error:
                raise SourceError(f"{self._bag.path}: futures at {stamp} ns: {error}") from error
            self._points["predict"].append((stamp, foreseen.predict_ms))
            self._points["energy"].append((stamp, foreseen.current_energy))

    def _thumbnail(self, topic: str, message: Any) -> bytes:
        try:
            return thumbnail(image_in(message))
        except FrameError as error:
            raise SourceError(f"{self._bag.path}: an image of {topic}: {error}") from error


def _since(start_ns: int, points: list[tuple[int, float]]) -> Series:
    """The finite ones of stamps [ns] with their values."""
    times = np.array([stamp_ns - start_ns for stamp_ns, _ in points]) / 1e9
    values = np.array([value for _, value in points], np.float64)
    told = np.isfinite(values)
    return Series(times[told], values[told])


def _facts(info: Any) -> Facts:
    ranges = np.asarray(info.action_high) - np.asarray(info.action_low)
    return Facts(
        model=f"{info.model_id} {info.version}",
        engine=f"{info.precision} on {info.engine}:{info.device}",
        sha256=info.sha256,
        step_s=float(info.step_s),
        horizon=int(info.horizon),
        action_names=tuple(info.action_names),
        action_range=float(ranges.mean()) if ranges.size else 0.0,
    )
