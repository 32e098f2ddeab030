"""A run as one self-contained page, for whoever has neither Foxglove nor rerun at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_runtime.imaging.conversion import data_uri, to_jpeg
from jepa_runtime.reports import run_charts
from jepa_runtime.reports.html import Html, block, card, facts, figure, note, numbers, page, section
from jepa_runtime.util.opencv import cv2
from jepa_runtime.util.statistics import format_ms, summarize
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.prediction_errors import Moment, PredictionErrors
from jepa_runtime.visualization.run_data import Run

_STRIP = 8
_TILE_PX = 56


def render(run: Run, atlas: Atlas | None = None) -> str:
    """The page.

    Args:
        run: what the bag told.
        atlas: of the bundle, to look predicted latents up in; left out: frames of the run itself.
    """
    album = atlas or run.atlas
    parts = [
        _headline(run),
        _seen(run),
        *(_moment(run, album, moment) for moment in run.moments),
        _legend(run, atlas) if run.moments else None,
        _held(run.errors, run),
        _surprise(run),
        _energy(run),
        _latency(run),
        section("What ran", facts(_facts(run, atlas))),
    ]
    return page(f"What {run.facts.model} saw and foresaw", run.name, [part for part in parts if part])


def surprises(run: Run) -> list[float]:
    """When surprise rose above its threshold [s]."""
    above = run.surprise.values > run.threshold.values
    began = above & ~np.concatenate([[False], above[:-1]])
    return [float(moment) for moment in run.surprise.times_s[began]]


def rows_of(moment: Moment) -> list[tuple[str, int]]:
    """The candidates that are shown, each with what it is called."""
    rows = [] if moment.executed is None else [("nearest to what\nwas driven", moment.executed)]
    ends = moment.predictions.best_and_worst
    if ends is not None:
        rows += [("best candidate", ends[0]), ("worst candidate", ends[1])]
    return rows or [("first candidate", 0)]


def _headline(run: Run) -> Html:
    cards = [
        card("Length", f"{run.duration_s:.1f} s", f"{run.frames} frames", kind="main"),
        card("Futures", str(len(run.moments)), "moments shown below"),
    ]
    if run.outcomes:
        reached = sum(outcome == "reached" for _, outcome in run.outcomes)
        cards.append(card("Goals reached", f"{reached} of {len(run.outcomes)}"))
    if len(run.surprise.times_s):
        surprising = int((run.surprise.values > run.threshold.values).sum())
        told = f"{surprising} of {len(run.surprise.values)}"
        cards.append(card("Surprise", told, "frames above the threshold"))
    for name, series in run.latency_ms.items():
        found = summarize(series.values)
        cards.append(card(name.capitalize(), f"{format_ms(found.p50)} ms", f"median of {found.n}"))
    return block("cards", cards)


def _seen(run: Run) -> Html:
    shown = np.linspace(0, len(run.latents) - 1, min(_STRIP, len(run.latents))).astype(int)
    heads = [f"{(run.stamps_ns[frame] - run.start_ns) / 1e9:.1f} s" for frame in shown]
    frames = [_uri(run.image(int(frame))) for frame in shown]
    colours = run.atlas.token_colors.colors(run.latents)
    tiles = [_uri(_enlarged(tile(colours[frame]))) for frame in shown]
    strip = run_charts.film_strip(heads, [("camera", frames, ()), ("its latent", tiles, ())])
    about = (
        "What the camera saw, and the latent of each image: a field for each token, coloured by the first "
        "three principal components of how it differs from what is usual at its place."
    )
    parts = [figure(strip, about, wide=True)]
    if colours.shape[1] <= 64:
        svg = run_charts.band(colours, "Colours of the latents over time", run.duration_s)
        parts.append(
            figure(svg, f"The same over time, one row for each of {colours.shape[1]} tokens.", wide=True)
        )
    return section("What was seen", *parts)


def _moment(run: Run, album: Atlas, moment: Moment) -> Html:
    foreseen, steps = moment.predictions, moment.predictions.columns()
    at_s = (foreseen.stamp_ns - run.start_ns) / 1e9
    came = [_uri(run.image(moment.frame)), *(_uri(run.image(int(moment.observed[step]))) for step in steps)]
    strips: list[tuple[str, Sequence[str | None], Sequence[str]]] = [("what came", came, ())]
    sought = run.goal_at(foreseen.stamp_ns)
    goal = None if sought is None else data_uri(sought)
    for row, (name, index) in enumerate(rows_of(moment)):
        found, away = album.nearest(foreseen.latents[index][steps])
        images = [_uri(album.image(int(frame))) for frame in found]
        remarks = ["the goal" if goal and row == 0 else "", *(f"{distance:.2f} away" for distance in away)]
        strips.append((f"foreseen:\n{name}", [goal if row == 0 else None, *images], remarks))
    heads = ["the image", *(f"+{foreseen.ahead_s[step]:.1f} s" for step in steps)]
    shown = [_map(run, album, moment)]
    if foreseen.energies is not None:
        chosen = {name: foreseen.energies[index] for name, index in _named(moment).items()}
        chart = run_charts.candidates(foreseen.ahead_s, foreseen.energies, chosen)
        about = f"Energy, the distance to the goal, of {len(foreseen.energies)} candidates."
        shown.append(figure(chart, about, title="Energy of each candidate", legend=list(chosen)))
    caption = "Below each foreseen image: how far its latent lies from what was predicted."
    if moment.executed is not None:
        caption += (
            f" The candidate nearest to what was driven differs from it by {moment.mismatch:.2g} in each "
            "component of an action, on average."
        )
    return section(
        f"Futures foreseen {at_s:.1f} s into the run",
        figure(run_charts.film_strip(heads, strips), caption, wide=True),
        block("columns", shown),
    )


def _map(run: Run, album: Atlas, moment: Moment) -> Html:
    foreseen = moment.predictions
    paths = album.project(foreseen.latents)
    chosen = {name: paths[index] for name, index in _named(moment).items()}
    chosen["what came"] = album.project(run.latents[moment.observed])
    svg = run_charts.plane(
        album.project(album.latents), paths, chosen, album.project(run.latents[moment.frame])
    )
    share = float(album.embedding.explained.sum())
    caption = (
        f"{len(paths)} candidates' paths among the remembered frames (dots). Of all movement {share:.0%} "
        "lies in this plane."
    )
    return figure(svg, caption, title="Map of futures", legend=list(chosen))


def _named(moment: Moment) -> dict[str, int]:
    named = {} if moment.executed is None else {"as driven": moment.executed}
    ends = moment.predictions.best_and_worst
    return named if ends is None else named | {"best": ends[0], "worst": ends[1]}


def _legend(run: Run, atlas: Atlas | None) -> Html:
    count = len((atlas or run.atlas).images)
    where = "of this run" if atlas is None else "that the bundle remembers"
    return note(
        "Latents cannot be decoded into images: a predicted one is shown as the most similar of the "
        f"{count} frames {where}, which may be one that came later. The map is the plane in which latents "
        "move most within one horizon."
    )


def _held(errors: PredictionErrors, run: Run) -> Html | None:
    if not len(errors.distances):
        return None
    away, bounds = errors.distances, errors.bounds
    ahead = run.facts.step_s * np.arange(1, away.shape[1] + 1)
    usual, most = np.median(away, axis=0), np.quantile(away, 0.9, axis=0)
    still, stated = np.median(errors.persistence, axis=0), np.median(bounds, axis=0)
    chart = run_charts.held(ahead, usual, most, stated, still)
    times = (errors.stamps_ns - run.start_ns) / 1e9
    last = run_charts.over_time(
        {"error": (times, away[:, -1])}, run.duration_s, "distance", limit=(times, bounds[:, -1])
    )
    columns_of = (usual, most, stated, still)
    rows = [
        (f"{seconds:.1f} s", *(f"{value:.3f}" if np.isfinite(value) else "-" for value in values))
        for seconds, *values in zip(ahead, *columns_of, strict=True)
    ]
    about = (
        f"Of {errors.examined} images looked at, {len(away)} had a candidate near to what was then driven "
        "(within a tenth of the range of actions, on average). The error is that candidate's, and so in part "
        "that its actions were others: it says less than the coverage that a calibration measures."
    )
    legend = ["median", "nine of ten", "nothing moves, median"]
    heads = ("ahead", "median", "nine of ten", "bound", "nothing moves")
    shape = figure(chart, "What was predicted against what came. Dashed: the published bound.", legend=legend)
    return section(
        "Errors against their bounds",
        block("columns", [shape, numbers(heads, rows)]),
        figure(last, f"The error {ahead[-1]:.1f} s ahead over the run; dashed: its bound.", wide=True),
        note(about),
    )


def _surprise(run: Run) -> Html | None:
    if not len(run.surprise.times_s):
        return None
    chart = run_charts.over_time(
        {"surprise": (run.surprise.times_s, run.surprise.values)}, run.duration_s, "error",
        limit=(run.threshold.times_s, run.threshold.values), marks={"surprised": surprises(run)},
    )  # fmt: skip
    about = "What came against what was predicted one step before; dashed: the threshold."
    return section("Surprise", figure(chart, about, wide=True))


def _energy(run: Run) -> Html | None:
    if not len(run.energy.times_s):
        return None
    ended = [moment for moment, outcome in run.outcomes if outcome == "reached"]
    energy = {"energy": (run.energy.times_s, run.energy.values)}
    chart = run_charts.over_time(energy, run.duration_s, "energy", marks={"reached": ended}, alert=False)
    about = "Energy of the present latent to the goal's."
    return section("Distance to the goal", figure(chart, about, wide=True))


def _latency(run: Run) -> Html | None:
    if not run.latency_ms:
        return None
    chart = run_charts.over_time(
        {name: (series.times_s, series.values) for name, series in run.latency_ms.items()},
        run.duration_s,
        "ms",
    )
    rows = [[name, *summarize(series.values).cells()] for name, series in run.latency_ms.items()]
    return section(
        "Latency",
        figure(chart, "The slowest of each moment.", legend=list(run.latency_ms), wide=True),
        numbers(("", "p50 ms", "p95 ms", "p99 ms", "max ms", "n"), rows),
    )


def _facts(run: Run, atlas: Atlas | None) -> dict[str, str]:
    told = run.facts
    return {
        "Model": f"{told.model}, {told.engine}",
        "Manifest SHA-256": told.sha256,
        "World model": run.prefix,
        "Futures": f"{told.horizon} steps of {told.step_s:g} s, actions {', '.join(told.action_names)}",
        "Recording": run.name,
        "Remembered frames": "of this run" if atlas is None else "of the bundle",
    }


def _uri(image: Image) -> str:
    return data_uri(to_jpeg(image, 85))


def _enlarged(image: Image) -> Image:
    enlarged: Image = cv2.resize(image, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    return enlarged
