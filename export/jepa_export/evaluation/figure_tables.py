"""The results of an evaluation as tables of text, for the terminal and for the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepa_export.evaluation.compute_cost import format_multiply_adds
from jepa_export.evaluation.results import Cost, Evaluation
from jepa_sim.closed_loop.scores import Goals

# The baseline of prediction accuracy.
NO_MOTION = "no motion"


@dataclass(frozen=True)
class ResultTable:
    """A table whose first ``text_columns`` columns are text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


def tables(found: Evaluation) -> list[ResultTable]:
    """Return the tables of everything that was measured."""
    indices = range(len(found.variants[0].comparisons))
    compared = [table(found, index) for index in indices for table in (fidelity, drift)]
    built = [teacher(found), *compared, predictions(found), surprise(found), goals(found), costs(found)]
    return [table for table in built if table.rows]


def teacher(found: Evaluation) -> ResultTable:
    """Return what the student's encoder retained of its teacher."""
    rows = [
        [
            each.teacher,
            each.clip_set,
            "-" if each.variance is None else _percent(each.variance),
            f"{each.cosine:.4f}",
            f"{each.clips}",
        ]
        for each in [found.teacher]
        if each is not None
    ]
    head = ["teacher", "clips", "explained variance, %", "mean cosine", "clips compared"]
    return ResultTable("Teacher tokens reconstructed from the student", head, rows, text_columns=2)


def fidelity(found: Evaluation, which: int) -> ResultTable:
    """Return the comparison of latents with those of one reference."""
    compared = [(variant.name, variant.comparisons[which]) for variant in found.variants]
    rows = [
        [
            name,
            *(f"{value:.6f}" for value in (each.mean_cosine, each.worst_cosine, each.pooled_cosine)),
            _percent(each.max_relative_error),
        ]
        for name, each in compared
    ]
    head = ["variant", "mean cosine", "worst token", "pooled", "largest error, %"]
    return ResultTable(f"Latents compared with {compared[0][1].reference}", head, rows)


def drift(found: Evaluation, which: int) -> ResultTable:
    """Return the comparison of futures with those of one reference."""
    compared = [(variant.name, variant.comparisons[which]) for variant in found.variants]
    rows = [[name, *map(_percent, each.drift), _percent(max(each.worst_drift))] for name, each in compared]
    head = ["variant, % by step", *map(str, range(1, len(rows[0]) - 1)), "worst"]
    return ResultTable(f"Drift of the futures from {compared[0][1].reference}", head, rows)


def predictions(found: Evaluation) -> ResultTable:
    """Return the comparison of futures with the outcome."""
    measured = {
        variant.name: variant.prediction_accuracy
        for variant in found.variants
        if variant.prediction_accuracy is not None
    }
    rows = [[name, *map(_percent, each.drift)] for name, each in measured.items()]
    for each in list(measured.values())[:1]:
        rows.append([NO_MOTION, *map(_percent, each.standing_still)])
    head = ["variant, % by step", *map(str, range(1, len(rows[0]) if rows else 1))]
    return ResultTable("Drift of the futures from the outcome", head, rows)


def surprise(found: Evaluation) -> ResultTable:
    """Return the comparison of surprise at events and at normal frames."""
    rows = [
        [
            variant.name,
            event,
            f"{each.auroc:.4f}",
            "-" if each.interval is None else "{:.3f} to {:.3f}".format(*each.interval),
            f"{each.detected:.1%}",
            f"{variant.surprise.false_alarms:.1%}",
        ]
        for variant in found.variants
        if variant.surprise is not None
        for event, each in variant.surprise.events.items()
    ]
    head = ["variant", "event", "AUROC", "95 %", "detected", "false alarms"]
    return ResultTable("Surprise at impossible events", head, rows, text_columns=2)


def goals(found: Evaluation) -> ResultTable:
    """Return the closed-loop results."""
    rows = [
        [
            name,
            f"{each.rate:.1%}",
            "{:.1%} to {:.1%}".format(*each.interval),
            f"{each.successes} of {each.episodes}",
            "-" if each.mean_steps is None else f"{each.mean_steps:.1f}",
        ]
        for name, each in drives(found).items()
    ]
    return ResultTable(
        "Goals reached in closed loop", ["", "reached", "95 %", "episodes", "mean steps"], rows
    )


def costs(found: Evaluation) -> ResultTable:
    """Return size and compute of both graphs."""
    rows = [
        [
            variant.name,
            f"{variant.encoder.bytes / 1e3:,.0f}",
            f"{variant.predictor.bytes / 1e3:,.0f}",
            _compute(variant.encoder),
            _compute(variant.predictor),
        ]
        for variant in found.variants
    ]
    head = ["variant", "encoder kB", "predictor kB", "multiply-adds per frame", f"for {found.futures}"]
    return ResultTable("Size and compute", head, rows)


def drives(found: Evaluation) -> dict[str, Goals]:
    """Return the closed-loop results by name, the baselines last."""
    own = {variant.name: variant.drive for variant in found.variants if variant.drive is not None}
    return own | found.baselines


def missing(found: Evaluation) -> list[str]:
    """Return what was not measured, with reasons."""
    return [*(f"{name}: {reason}" for name, reason in found.absent.items()), *found.notes]


def _percent(value: float) -> str:
    percent = 100 * value
    return f"{percent:.2f}" if percent < 10 else f"{percent:.1f}"


def _compute(cost: Cost) -> str:
    return "-" if cost.multiply_adds is None else format_multiply_adds(cost.multiply_adds)
