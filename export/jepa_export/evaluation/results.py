"""The results of an evaluation as data. Lists are over prediction steps 1 … H unless stated otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_sim.closed_loop.scores import Goals

# For charts only: too large for the report in a bundle.
_SAMPLES = frozenset({"histogram", "scores"})


@dataclass(frozen=True)
class Comparison:
    """Agreement of a variant with a reference, on the same frames and actions.

    Attributes:
        reference: Name of the reference.
        mean_cosine: Mean cosine of the tokens of all frames.
        worst_cosine: Lowest cosine of a token, which the mean hides.
        pooled_cosine: Mean over the frames, of the mean of their tokens.
        max_relative_error: Largest difference between two numbers of a latent, relative to the largest
            number.
        drift: Norm of the difference of two futures, relative to the norm of the reference's; mean.
        worst_drift: The largest of these.
        histogram: Tokens by 1 - cosine, in the bins of :data:`jepa_export.evaluation.comparison.EDGES`.
    """

    reference: str
    mean_cosine: float
    worst_cosine: float
    pooled_cosine: float
    max_relative_error: float
    drift: list[float]
    worst_drift: list[float]
    histogram: list[int]


@dataclass(frozen=True)
class PredictionAccuracy:
    """Comparison of futures with the outcome, encoded by the same encoder.

    Attributes:
        drift: Norm of the difference, relative to the norm of the outcome; mean.
        standing_still: The same for predicting no motion.
    """

    drift: list[float]
    standing_still: list[float]


@dataclass(frozen=True)
class Event:
    """Separation of an event from normal frames by surprise.

    Attributes:
        auroc: Area under the ROC curve.
        interval: Its 95 % interval (None: too few scenes).
        detected: Proportion above the bundle's threshold.
    """

    auroc: float
    interval: tuple[float, float] | None
    detected: float


@dataclass(frozen=True)
class Surprise:
    """Surprise at events and at normal frames.

    Attributes:
        threshold: The bundle's threshold.
        false_alarms: Proportion of normal frames above it.
        scores: All surprise values by outcome, the normal one first.
    """

    threshold: float
    false_alarms: float
    events: dict[str, Event]
    scores: dict[str, list[float]]


@dataclass(frozen=True)
class Cost:
    """Cost of one graph: bytes of its files, and multiply-adds of one call (None: see the notes)."""

    bytes: int
    multiply_adds: int | None


@dataclass(frozen=True)
class Variant:
    """Results of one engine in one precision."""

    name: str
    engine: str
    precision: str
    comparisons: list[Comparison]
    prediction_accuracy: PredictionAccuracy | None
    surprise: Surprise | None
    drive: Goals | None
    encoder: Cost
    predictor: Cost


@dataclass(frozen=True)
class Evaluation:
    """Results for a bundle.

    Attributes:
        data: Source of the ``clips`` clips, of ``frames`` frames in total.
        futures: Number and length of the futures of one call of the predictor.
        teacher: What the student retained of its teacher, as recorded in the bundle.
        absent: What cannot run on this machine, with reasons.
        baselines: Results of policies without a model, in the same episodes.
        notes: What was not measured, with reasons.
    """

    model_id: str
    version: str
    trained: bool
    data: str
    clips: int
    frames: int
    futures: str
    teacher: TeacherRetention | None
    seed: int
    variants: list[Variant]
    absent: dict[str, str]
    baselines: dict[str, Goals]
    notes: list[str]
    machine: dict[str, Any]

    def as_dict(self, *, samples: bool = True) -> dict[str, Any]:
        """Return the results for JSON; without ``samples``, the values that only charts need are omitted."""

        def select(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if samples or key not in _SAMPLES}

        return asdict(self, dict_factory=select)
