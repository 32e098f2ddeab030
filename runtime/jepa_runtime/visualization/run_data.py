"""Read one run from its bag: frames, predictions at a few moments, and prediction errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.recording.messages import array_of
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.sources.commands import Commands
from jepa_runtime.sources.message_fields import MessageFields
from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.bag_topics import Topics, find_topics
from jepa_runtime.visualization.embedding import Image, Latents
from jepa_runtime.visualization.prediction_errors import Moment, PredictionErrors, PredictionScorer
from jepa_runtime.visualization.predictions import Predictions, check_finite, stamp_of

_MAX_LATENT_BYTES = 1 << 29
_MAX_PICTURES = 3000


@dataclass(frozen=True)
class Facts:
    """The model of the run, and what is needed to interpret its outputs."""

    model: str
    engine: str
    sha256: str
    step_s: float
    horizon: int
    action_names: tuple[str, ...]
    action_range: float


@dataclass(frozen=True)
class Series:
    """A time series: ``times_s`` [n] after the first frame, ``values`` [n]."""

    times_s: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """The content of a bag.

    Attributes:
        name: The name of the bag.
        prefix: The topic prefix of the world model.
        namespace: The topic prefix of the robot.
        facts: The model.
        start_ns: The stamp of the first frame.
        stamps_ns: [N] of the frames.
        latents: [N, T, D] of the frames.
        frames_with_image: [M], the frames that have an image in the ``atlas``, in the same order.
        atlas: Built from this run.
        frames: The number of recorded frames, which is larger than N if some were skipped.
        goals: Stamp and JPEG of each goal.
        surprise: Surprise values.
        threshold: Surprise thresholds.
        energy: The distance of the current state to the goal.
        latency_ms: Latencies by stage.
        errors: Prediction errors.
        moments: A few moments whose futures are shown.
        outcomes: Time in s and outcome of each episode.
    """

    name: str
    prefix: str
    namespace: str
    facts: Facts
    start_ns: int
    stamps_ns: NDArray[np.int64]
    latents: Latents
    frames_with_image: NDArray[np.intp]
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
        """The time from the first frame to the last."""
        return float(self.stamps_ns[-1] - self.stamps_ns[0]) / 1e9

    def image(self, frame: int) -> Image:
        """Return the image of a frame, or of the nearest frame that has one."""
        return self.atlas.image(int(np.abs(self.frames_with_image - frame).argmin()))

    def goal_at(self, stamp_ns: int) -> bytes | None:
        """Return the JPEG of the goal at a time, or None if there was none."""
        return next((jpeg for stamp, jpeg in reversed(self.goals) if stamp <= stamp_ns), None)


def read_run(
    path: Path,
    *,
    node: str | None = None,
    image: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Read a bag in two passes.

    Args:
        path: The bag.
        node: See :func:`~jepa_runtime.visualization.bag_topics.find_topics`.
        image: See :func:`~jepa_runtime.visualization.bag_topics.find_topics`.
        progress: Called with the number of messages read, and the total.

    Raises:
        SourceError: The file is not a bag, is malformed, or lacks required topics.
    """
    with BagFile(path) as bag:
        topics = find_topics(bag, node=node, image=image)
        return _RunReader(bag, topics, progress).run()


class _RunReader:
    """Reads latents, commands and scalars in the first pass, images and futures in the second."""

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
                f"{self._bag.path} has {len(self._latents)} latents of {self._topics.prefix}, at least 2 are "
                "required: record a longer run",
                code="source.run_too_short",
            )
        shapes = {latent.shape for latent in self._latents.values()}
        if len(shapes) > 1:
            listed = ", ".join(map(str, sorted(shapes)))
            raise SourceError(
                f"{self._bag.path} has latents of several shapes ({listed}) because the model changed during "
                "the recording: use a recording of a single model",
                code="source.latent_shapes_differ",
            )
        facts = _facts(self._info)
        stamps = np.array(sorted(self._latents), np.int64)
        latents = np.stack([self._latents[stamp] for stamp in stamps])
        scorer = PredictionScorer(
            stamps,
            latents,
            commands=self._executed_commands(facts.action_names),
            step_s=facts.step_s,
            breaks=np.array(sorted(self._breaks), np.int64),
            tolerance=0.1 * facts.action_range,
            expected=self._count({self._topics.futures}),
        )
        self._read_large(stamps, scorer)
        frames_with_image = np.flatnonzero(np.isin(stamps, list(self._images)))
        if not len(frames_with_image):
            raise SourceError(
                f"{self._bag.path} has no image on {self._topics.image} with the stamp of a latent of "
                f"{self._topics.prefix}: choose the model's camera with --image",
                code="source.stamps_differ",
            )
        lag = max(1, round(facts.horizon * facts.step_s / max(float(np.median(np.diff(stamps))) / 1e9, 1e-3)))
        images = [self._images[int(stamp)] for stamp in stamps[frames_with_image]]
        atlas = Atlas.build(latents, frames_with_image, images, lag)
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
            frames_with_image=frames_with_image,
            atlas=atlas,
            frames=self._frames,
            goals=tuple(self._goals),
            surprise=surprise,
            threshold=threshold,
            energy=energy,
            latency_ms={name: series for name, series in latency.items() if series.values.any()},
            errors=scorer.errors(),
            moments=scorer.moments(),
            outcomes=tuple(((stamp - start) / 1e9, outcome) for stamp, outcome in self._outcomes),
        )

    def _count(self, topics: set[str | None]) -> int:
        return sum(entry.msgcount for entry in self._bag.connections_on(topics))

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
                    every = 1 + self._count({topic}) * latent.nbytes // _MAX_LATENT_BYTES
                self._add_latent(message, latent, keep=self._frames % every == 0)
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
            raise SourceError(
                f"{self._bag.path}: invalid latent at {stamp_of(message)} ns: {error}",
                code="source.message_invalid",
            ) from error

    def _add_latent(self, message: Any, latent: Latents, *, keep: bool) -> None:
        stamp = stamp_of(message)
        self._frames += 1
        if message.history_reset and self._frames > 1:
            self._breaks.append(stamp)
        if keep:
            self._latents[stamp] = latent
        self._points["encode"].append((stamp, message.encode_ms))

    def _executed_commands(self, names: tuple[str, ...]) -> Commands | None:
        """Return the commands as actions of the model, or None if the bag has no matching commands."""
        if not self._commands:
            return None
        try:
            first = self._commands[0][1]
            fields = MessageFields(first.__msgtype__, names, first)
            values = np.array([fields.read(message) for _, message in self._commands])
            stamps = np.array([log_ns for log_ns, _ in self._commands])
            return Commands(fields.names, fields.units, stamps, values, max_age_s=1.0)
        except ValueError:
            return None

    def _read_large(self, stamps: NDArray[np.int64], scorer: PredictionScorer) -> None:
        every = -(-len(stamps) // _MAX_PICTURES)
        wanted = {int(stamp) for stamp in stamps[::every]}
        for topic, _, message in self._messages(self._large):
            stamp = stamp_of(message)
            if topic == self._topics.image:
                if stamp in wanted:
                    self._images[stamp] = self._thumbnail(topic, message)
                continue
            try:
                predictions = Predictions.from_message(message)
                scorer.add(predictions)
            except ValueError as error:
                raise SourceError(
                    f"{self._bag.path}: invalid futures at {stamp} ns: {error}", code="source.message_invalid"
                ) from error
            self._points["predict"].append((stamp, predictions.predict_ms))
            self._points["energy"].append((stamp, predictions.current_energy))

    def _thumbnail(self, topic: str, message: Any) -> bytes:
        try:
            return thumbnail(image_from_message(message))
        except FrameError as error:
            raise SourceError(
                f"{self._bag.path}: invalid image on {topic}: {error}", code="source.image_invalid"
            ) from error


def _since(start_ns: int, points: list[tuple[int, float]]) -> Series:
    """Return the series of the points, given as (stamp in ns, value), that are finite."""
    times = np.array([stamp_ns - start_ns for stamp_ns, _ in points]) / 1e9
    values = np.array([value for _, value in points], np.float64)
    is_finite = np.isfinite(values)
    return Series(times[is_finite], values[is_finite])


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
