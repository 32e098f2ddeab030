"""A recorded run as a self-contained page, without Foxglove or Rerun."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_runtime.imaging.conversion import data_uri, to_jpeg
from jepa_runtime.reports import run_charts
from jepa_runtime.reports.html import Html, Section, block, card, facts, figure, note, numbers, page, section
from jepa_runtime.util.opencv import cv2
from jepa_runtime.util.statistics import format_ms, summarize
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.futures_picture import ErrorCurves, MomentPicture
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.run_data import Run

_STRIP = 8
_TILE_PX = 56


def render_run(run: Run, atlas: Atlas | None = None) -> str:
    """Return the page.

    Args:
        run: The recorded run.
        atlas: The bundle's atlas, in which predicted latents are looked up (default: the frames of the run).
    """
    album = atlas or run.atlas
    moments = [MomentPicture.of(run, moment, album) for moment in run.moments]
    curves = ErrorCurves.of(run)
    parts = [
        _headline(run),
        _observations(run),
        *(_moment(run, album, moment) for moment in moments),
        _legend(run, atlas) if run.moments else None,
        None if curves is None else _prediction_errors(curves, run),
        _surprise(run),
        _energy(run),
        _latency(run),
        section("Model", facts(_facts(run, atlas))),
    ]
    return page(
        f"Observations and predictions of {run.facts.model}",
        run.name,
        [part for part in parts if part],
        {
            "report": "run",
            "name": run.name,
            "facts": run.facts,
            "duration_s": run.duration_s,
            "known": album.project(album.latents),
            "moments": moments,
            "errors": curves,
            "surprise": run.surprise,
            "threshold": run.threshold,
            "surprises_s": surprises(run),
            "energy": run.energy,
            "latency_ms": run.latency_ms,
            "outcomes": run.outcomes,
        },
    )


def surprises(run: Run) -> list[float]:
    """Return the times [s] at which surprise rose above its threshold."""
    above = run.surprise.values > run.threshold.values
    began = above & ~np.concatenate([[False], above[:-1]])
    return [float(moment) for moment in run.surprise.times_s[began]]


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
        frames = f"{surprising} of {len(run.surprise.values)}"
        cards.append(card("Surprise", frames, "frames above the threshold"))
    for name, series in run.latency_ms.items():
        summary = summarize(series.values)
        cards.append(card(name.capitalize(), f"{format_ms(summary.p50)} ms", f"median of {summary.n}"))
    return block("cards", cards)


def _observations(run: Run) -> Section:
    shown = np.linspace(0, len(run.latents) - 1, min(_STRIP, len(run.latents))).astype(int)
    heads = [f"{(run.stamps_ns[frame] - run.start_ns) / 1e9:.1f} s" for frame in shown]
    frames = [_uri(run.image(int(frame))) for frame in shown]
    colors = run.atlas.token_colors.colors(run.latents)
    tiles = [_uri(_enlarged(tile(colors[frame]))) for frame in shown]
    strip = run_charts.film_strip(heads, [("camera", frames, ()), ("latent", tiles, ())])
    about = (
        "Camera images and their latents: one cell per token, colored by the first three principal "
        "components of its deviation from the mean at its position."
    )
    parts = [figure(strip, about, wide=True)]
    if colors.shape[1] <= 64:
        svg = run_charts.band(colors, "Colors of the latents over time", run.duration_s)
        parts.append(
            figure(
                svg, f"The same colors over time, one row for each of {colors.shape[1]} tokens.", wide=True
            )
        )
    return section("Observations", *parts)


def _moment(run: Run, album: Atlas, picture: MomentPicture) -> Section:
    futures = picture.futures
    observed = [
        _uri(run.image(picture.frame)),
        *(_uri(run.image(int(picture.observed[step]))) for step in futures.steps),
    ]
    strips: list[tuple[str, Sequence[str | None], Sequence[str]]] = [("observed", observed, ())]
    goal_image = run.goal_at(futures.stamp_ns)
    goal = None if goal_image is None else data_uri(goal_image)
    for row, candidate in enumerate(futures.candidates):
        images = [_uri(album.image(int(frame))) for frame in candidate.frames]
        remarks = [
            "the goal" if goal and row == 0 else "",
            *(f"distance {distance:.2f}" for distance in candidate.distances),
        ]
        strips.append((f"predicted:\n{candidate.label}", [goal if row == 0 else None, *images], remarks))
    heads = ["the image", *(f"+{futures.ahead_s[step]:.1f} s" for step in futures.steps)]
    roles = [candidate.role for candidate in futures.candidates]
    shown = [_map(album, picture)]
    if futures.energies is not None:
        chart = run_charts.candidates(futures)
        about = f"Energy, the distance to the goal, of {len(futures.energies)} candidates."
        colors = [run_charts.COLORS[role] for role in roles]
        shown.append(figure(chart, about, title="Energy of each candidate", legend=roles, colors=colors))
    caption = "Below each predicted image: the distance of its latent from the predicted one."
    if picture.errors is not None:
        caption += (
            f" The candidate nearest to the executed actions differs from them by {picture.mismatch:.2g} per "
            "component, on average."
        )
    return section(
        f"Futures predicted {picture.at_s:.1f} s into the run",
        figure(run_charts.film_strip(heads, strips), caption, wide=True),
        block("columns", shown),
    )


def _map(album: Atlas, picture: MomentPicture) -> Html:
    futures = picture.futures
    svg = run_charts.plane(album.project(album.latents), picture)
    share = float(futures.explained.sum())
    caption = (
        f"Paths of {len(futures.paths)} candidates among the known frames (dots). The plane contains "
        f"{share:.0%} of the variance of motion."
    )
    names = [*(candidate.role for candidate in futures.candidates), "observed"]
    colors = [run_charts.COLORS[name] for name in names]
    return figure(svg, caption, title="Map of futures", legend=names, colors=colors)


def _legend(run: Run, atlas: Atlas | None) -> Html:
    count = len((atlas or run.atlas).images)
    origin = "of this run" if atlas is None else "of the bundle's atlas"
    return note(
        "Latents cannot be decoded into images: a predicted latent is shown as the most similar of the "
        f"{count} frames {origin}, which may be a later one. The map is the plane in which latents move most "
        "within one horizon."
    )


def _prediction_errors(curves: ErrorCurves, run: Run) -> Section:
    last = run_charts.over_time(
        {"executed": (curves.times_s, curves.last_errors)},
        run.duration_s,
        "distance",
        limit=(curves.times_s, curves.last_bounds),
    )
    columns = (curves.medians, curves.quantiles, curves.bounds, curves.persistence)
    rows = [
        (f"{seconds:.1f} s", *(f"{value:.3f}" if np.isfinite(value) else "-" for value in values))
        for seconds, *values in zip(curves.ahead_s, *columns, strict=True)
    ]
    about = (
        f"Of {run.errors.examined} frames, {len(curves.times_s)} had a candidate near the executed actions "
        "(within a tenth of the action range, on average). The error is that of this candidate and thus "
        "partly caused by its different actions: it is less precise than the coverage that a calibration "
        "measures."
    )

    heads = ("ahead", "median", "90 % quantile", "bound", "persistence")
    caption = (
        "Distance of predicted and observed latents. Persistence: the prediction that nothing moves. "
        "Dashed: the published bound."
    )
    colors = [run_charts.COLORS[name] for name in run_charts.ERROR_SERIES]
    chart = run_charts.prediction_errors(curves)
    shape = figure(chart, caption, legend=run_charts.ERROR_SERIES, colors=colors)
    return section(
        "Prediction errors and their bounds",
        block("columns", [shape, numbers(heads, rows)]),
        figure(last, f"Error {curves.ahead_s[-1]:.1f} s ahead over the run; dashed: its bound.", wide=True),
        note(about),
    )


def _surprise(run: Run) -> Section | None:
    if not len(run.surprise.times_s):
        return None
    chart = run_charts.over_time(
        {"surprise": (run.surprise.times_s, run.surprise.values)}, run.duration_s, "error",
        limit=(run.threshold.times_s, run.threshold.values), marks={"surprised": surprises(run)},
    )  # fmt: skip
    about = "Error of the prediction one step before; dashed: the threshold."
    return section("Surprise", figure(chart, about, wide=True))


def _energy(run: Run) -> Section | None:
    if not len(run.energy.times_s):
        return None
    ended = [moment for moment, outcome in run.outcomes if outcome == "reached"]
    energy = {"energy": (run.energy.times_s, run.energy.values)}
    chart = run_charts.over_time(energy, run.duration_s, "energy", marks={"reached": ended}, alert=False)
    about = "Energy of the current latent to that of the goal."
    return section("Distance to the goal", figure(chart, about, wide=True))


def _latency(run: Run) -> Section | None:
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
        figure(chart, "Maximum of each column.", legend=list(run.latency_ms), wide=True),
        numbers(("", "p50 ms", "p95 ms", "p99 ms", "max ms", "n"), rows),
    )


def _facts(run: Run, atlas: Atlas | None) -> dict[str, str]:
    model = run.facts
    return {
        "Model": f"{model.model}, {model.engine}",
        "Manifest SHA-256": model.sha256,
        "World model": run.prefix,
        "Futures": f"{model.horizon} steps of {model.step_s:g} s, actions {', '.join(model.action_names)}",
        "Recording": run.name,
        "Atlas": "of this run" if atlas is None else "of the bundle",
    }


def _uri(image: Image) -> str:
    return data_uri(to_jpeg(image, 85))


def _enlarged(image: Image) -> Image:
    enlarged: Image = cv2.resize(image, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    return enlarged
