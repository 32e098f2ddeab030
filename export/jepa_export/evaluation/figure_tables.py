"""The figures of an evaluation as tables of words, for a terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepa_export.evaluation.compute_cost import shown
from jepa_export.evaluation.results import Cost, Evaluation
from jepa_sim.closed_loop.scores import Goals

# The yardstick of foresight.
STILL = "as if nothing moved"


@dataclass(frozen=True)
class Sheet:
    """A table whose first ``words`` columns are text, the others figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def sheets(found: Evaluation) -> list[Sheet]:
    """All that were measured."""
    each = range(len(found.variants[0].comparisons))
    compared = [sheet(found, index) for index in each for sheet in (fidelity, drift)]
    built = [teacher(found), *compared, foresight(found), surprise(found), goals(found), costs(found)]
    return [sheet for sheet in built if sheet.rows]


def teacher(found: Evaluation) -> Sheet:
    """What the student's encoder kept of it."""
    rows = [
        [
            each.teacher,
            each.where,
            "-" if each.variance is None else _percent(each.variance),
            f"{each.cosine:.4f}",
            f"{each.clips}",
        ]
        for each in [found.teacher]
        if each is not None
    ]
    head = ["teacher", "clips", "of its variance, %", "mean cosine", "clips compared"]
    return Sheet("What the student tells of its teacher's tokens", head, rows, words=2)


def fidelity(found: Evaluation, which: int) -> Sheet:
    """Of the latents, against one of the references."""
    compared = [(variant.name, variant.comparisons[which]) for variant in found.variants]
    rows = [
        [
            name,
            *(f"{value:.6f}" for value in (each.mean_cosine, each.worst_cosine, each.pooled_cosine)),
            _percent(each.max_relative_error),
        ]
        for name, each in compared
    ]
    head = ["form", "mean cosine", "worst token", "pooled", "largest error, %"]
    return Sheet(f"Latents against {compared[0][1].reference}", head, rows)


def drift(found: Evaluation, which: int) -> Sheet:
    """Of the futures, from those of one of the references."""
    compared = [(variant.name, variant.comparisons[which]) for variant in found.variants]
    rows = [[name, *map(_percent, each.drift), _percent(max(each.worst_drift))] for name, each in compared]
    head = ["form, % by step", *map(str, range(1, len(rows[0]) - 1)), "worst"]
    return Sheet(f"Drift of the futures from {compared[0][1].reference}", head, rows)


def foresight(found: Evaluation) -> Sheet:
    """Futures against what came."""
    told = {variant.name: variant.foresight for variant in found.variants if variant.foresight is not None}
    rows = [[name, *map(_percent, each.drift)] for name, each in told.items()]
    for each in list(told.values())[:1]:
        rows.append([STILL, *map(_percent, each.standing_still)])
    head = ["form, % by step", *map(str, range(1, len(rows[0]) if rows else 1))]
    return Sheet("Drift of the futures from what then was seen", head, rows)


def surprise(found: Evaluation) -> Sheet:
    """Events against normal frames."""
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
    head = ["form", "event", "AUROC", "95 %", "detected", "false alarms"]
    return Sheet("Surprise at what cannot be", head, rows, words=2)


def goals(found: Evaluation) -> Sheet:
    """Closed loop."""
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
    return Sheet("Goals reached in closed loop", ["", "reached", "95 %", "episodes", "mean steps"], rows)


def costs(found: Evaluation) -> Sheet:
    """Size and work of both graphs."""
    rows = [
        [
            variant.name,
            f"{variant.encoder.bytes / 1e3:,.0f}",
            f"{variant.predictor.bytes / 1e3:,.0f}",
            _work(variant.encoder),
            _work(variant.predictor),
        ]
        for variant in found.variants
    ]
    head = ["form", "encoder kB", "predictor kB", "multiply-adds per frame", f"for {found.futures}"]
    return Sheet("Size and work", head, rows)


def drives(found: Evaluation) -> dict[str, Goals]:
    """Closed-loop scores by name, the baselines last."""
    own = {variant.name: variant.drive for variant in found.variants if variant.drive is not None}
    return own | found.baselines


def missing(found: Evaluation) -> list[str]:
    """What was not measured, and why."""
    return [*(f"{name}: {reason}" for name, reason in found.absent.items()), *found.notes]


def _percent(value: float) -> str:
    percent = 100 * value
    return f"{percent:.2f}" if percent < 10 else f"{percent:.1f}"


def _work(cost: Cost) -> str:
    return "-" if cost.multiply_adds is None else shown(cost.multiply_adds)
