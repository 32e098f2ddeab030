"""What an evaluation found, as data. Lists run over prediction steps 1 … H unless they say otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_sim.closed_loop.scores import Goals

# Only for drawing: too much for the report that a bundle carries.
_SAMPLES = frozenset({"histogram", "scores"})


@dataclass(frozen=True)
class Comparison:
    """How closely a variant computes what a reference computes, on the same frames and actions.

    Attributes:
        reference: its name.
        mean_cosine, worst_cosine: of the tokens of all frames; a mean hides what a worst token shows.
        pooled_cosine: mean over the frames, of the mean of their tokens.
        max_relative_error: largest difference of two numbers of a latent, over the largest number.
        drift: norm of the difference of two futures, over the norm of the reference's; mean.
        worst_drift: the largest of these.
        histogram: tokens by 1 - cosine, in the bins of :data:`jepa_export.evaluation.comparison.EDGES`.
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
class Foresight:
    """Futures against what the same encoder then saw: mean norm of the difference over the norm of what came;
    ``standing_still``: the same, had nothing moved."""

    drift: list[float]
    standing_still: list[float]


@dataclass(frozen=True)
class Event:
    """How well surprise tells an event from normal frames: area under the ROC curve and its 95 % interval
    (None: too few scenes), and the share above the bundle's threshold."""

    auroc: float
    interval: tuple[float, float] | None
    detected: float


@dataclass(frozen=True)
class Surprise:
    """``false_alarms``: share of normal frames above the bundle's ``threshold``; ``scores``: every surprise
    by name of what came, the normal first."""

    threshold: float
    false_alarms: float
    events: dict[str, Event]
    scores: dict[str, list[float]]


@dataclass(frozen=True)
class Cost:
    """Of one graph: bytes of its files, multiply-adds of its products in one call (None: see the notes)."""

    bytes: int
    multiply_adds: int | None


@dataclass(frozen=True)
class Variant:
    """What one engine computes in one precision."""

    name: str
    engine: str
    precision: str
    comparisons: list[Comparison]
    foresight: Foresight | None
    surprise: Surprise | None
    drive: Goals | None
    encoder: Cost
    predictor: Cost


@dataclass(frozen=True)
class Evaluation:
    """What was found of a bundle.

    Attributes:
        data: what the variants were compared on: ``clips`` clips, of ``frames`` frames together.
        futures: how many of how many steps one call of the predictor gives.
        teacher: what the student kept of it, as the bundle tells since it was distilled.
        absent: what cannot run here, and why.
        baselines: what needs no model, in the same episodes.
        notes: what was not measured, and why.
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
        """For JSON; without ``samples``, without the many numbers that only charts need."""

        def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if samples or key not in _SAMPLES}

        return asdict(self, dict_factory=kept)
