"""Comparison of the model outputs in two bags: which messages are equal, and where they first differ.

Values computed by the model are compared bit for bit. Durations and frame counters are not compared. Latents
that one side stores as float16 are compared as float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.recording.run_recording import NODE
from jepa_runtime.sources.bag_file import BagFile, message_stamp_ns

_IGNORED_FIELDS = {
    "sequence", "preprocess_ms", "encode_ms", "predict_ms", "deadline_missed", "goal_requested"
}  # fmt: skip
_ALWAYS_COMPARED = (
    messages.LATENT_STATE,
    messages.PREDICTED_FUTURES,
    messages.SURPRISE,
    messages.SURPRISE_EVENT,
)
_IGNORED_TYPES = {messages.MODEL_INFO, messages.ACTION_CANDIDATES}
_MODEL = ("model_id", "version", "sha256", "engine", "device", "precision", "num_samples")

Values = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Difference of two messages with one stamp: the largest by field; None if it is not a number."""

    stamp_ns: int
    fields: dict[str, float | None]


@dataclass(frozen=True)
class TopicComparison:
    """Number of messages of a topic that are equal, differ, or exist on one side only."""

    topic: str
    equal: int
    different: int
    only_first: int
    only_second: int
    difference: Difference | None

    @property
    def same(self) -> bool:
        """Whether both sides are equal."""
        return not (self.different or self.only_first or self.only_second)


@dataclass(frozen=True)
class Comparison:
    """Comparison of two bags.

    Attributes:
        models: Properties in which the models differ.
        topics: Comparison of each topic.
    """

    models: dict[str, tuple[Any, Any]]
    topics: tuple[TopicComparison, ...]

    @property
    def same(self) -> bool:
        """Whether every output is equal."""
        return all(topic.same for topic in self.topics)


def compare(first: Path, second: Path) -> Comparison:
    """Compare the outputs in ``first``, written by a replay, with those in ``second``.

    A topic of the second bag may have another name if it is the only one of its type, as with a node in a
    namespace.

    Raises:
        SourceError: A bag cannot be read, or the second has no outputs or those of several cameras.
    """
    with BagFile(first) as ours, BagFile(second) as theirs:
        named = dict.fromkeys(_ALWAYS_COMPARED, "")
        for entry in ours.connections:
            if entry.topic.startswith(f"{NODE}/") and entry.msgtype not in _IGNORED_TYPES:
                named[entry.msgtype] = entry.topic
        pairs = [(topic, _partner(theirs, topic, type_name)) for type_name, topic in named.items()]
        if not any(other for _, other in pairs):
            raise SourceError(
                f"{second}: no model outputs to compare with; its topics: {theirs.describe_topics()}",
                code="replay.no_outputs",
            )
        topics = tuple(
            _compare(topic or other, _read(ours, topic), _read(theirs, other))
            for topic, other in pairs
            if topic or other
        )
        return Comparison(_models(ours, theirs), topics)


def _partner(bag: BagFile, topic: str, type_name: str) -> str:
    topics = bag.topics(type_name)
    if topic in topics:
        return topic
    if len(topics) > 1:
        raise SourceError(
            f"{bag.path}: several topics of {type_name}: {', '.join(topics)}", code="replay.ambiguous_topic"
        )
    return next(iter(topics), "")


def _read(bag: BagFile, topic: str) -> Iterator[tuple[int, Values]]:
    for _, log_ns, message in bag.read({topic}):
        yield message_stamp_ns(message, log_ns), _values(message)


def _values(message: Any) -> Values:
    """Return the leaves of a message by path; arrays are leaves."""
    if message.__msgtype__ == "jepa_msgs/msg/Tensor":
        return {"": messages.array_of(message)}
    values: Values = {}
    for name in message.__dataclass_fields__:
        if name.startswith("_") or name in _IGNORED_FIELDS:
            continue
        value = getattr(message, name)
        if hasattr(value, "__msgtype__"):
            values |= {f"{name}.{path}".rstrip("."): leaf for path, leaf in _values(value).items()}
        else:
            values[name] = value
    return values


def _compare(
    topic: str, first: Iterator[tuple[int, Values]], second: Iterator[tuple[int, Values]]
) -> TopicComparison:
    equal = different = only_first = only_second = 0
    difference: Difference | None = None
    one, other = next(first, None), next(second, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            only_first += 1
            one = next(first, None)
        elif one is None or other[0] < one[0]:
            only_second += 1
            other = next(second, None)
        else:
            fields = _differences(one[1], other[1])
            equal += not fields
            different += bool(fields)
            if fields and difference is None:
                difference = Difference(one[0], fields)
            one, other = next(first, None), next(second, None)
    return TopicComparison(topic, equal, different, only_first, only_second, difference)


def _differences(first: Values, second: Values) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in first.keys() | second.keys():
        if name not in first or name not in second:
            found[name] = None
            continue
        one, other = np.asarray(first[name]), np.asarray(second[name])
        if np.dtype(np.float16) in (one.dtype, other.dtype):
            one, other = one.astype(np.float16), other.astype(np.float16)
        if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
            found[name] = _largest(one, other)
    return dict(sorted(found.items()))


def _largest(one: Any, other: Any) -> float | None:
    if one.shape != other.shape or not one.size or {one.dtype.kind, other.dtype.kind} - set("fiu"):
        return None
    largest = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    return largest if np.isfinite(largest) else None


def _models(ours: BagFile, theirs: BagFile) -> dict[str, tuple[Any, Any]]:
    one, other = _model(ours), _model(theirs)
    return {name: (one.get(name), other.get(name)) for name in _MODEL if one.get(name) != other.get(name)}


def _model(bag: BagFile) -> Values:
    _, _, info = next(bag.read(bag.topics(messages.MODEL_INFO)), (None, None, None))
    return {} if info is None else _values(info)
