"""One moment of a run as a PNG: observed and predicted frames, the map, energies and errors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.reports.run_page import rows_of
from jepa_runtime.util.output_files import write_file
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.palette import BASELINE, BEST, BOUND, EXECUTED, OBSERVED, WORST
from jepa_runtime.visualization.prediction_errors import Moment, norms
from jepa_runtime.visualization.run_data import Run

_DPI = 110


def draw(run: Run, target: Path, atlas: Atlas | None = None) -> None:
    """Draw the most eventful moment of a run.

    Args:
        run: The recorded run.
        target: The PNG file to write.
        atlas: The bundle's atlas, in which predicted latents are looked up (default: the frames of the run).

    Raises:
        RecordingError: The run contains no complete prediction, or matplotlib is not installed.
        JepaRuntimeError: The file cannot be written.
    """
    if not run.moments:
        raise RecordingError(
            f"{run.name}: contains no prediction whose horizon was recorded completely",
            code="report.no_predictions",
        )
    try:
        import matplotlib
    except ImportError as error:
        raise RecordingError(
            f"{target}: a PNG needs the package matplotlib: pip install 'jepa-edge[viz]'",
            code="report.matplotlib_missing",
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    moment = max(run.moments, key=lambda each: each.score)
    album = atlas or run.atlas
    rows, steps = rows_of(moment), moment.predictions.columns()
    figure = plt.figure(
        figsize=(2.2 + 1.35 * (len(steps) + 1), 1.5 * len(rows) + 5.4), constrained_layout=True
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=[(len(rows) + 1) * 1.5, 3.6])
    strip, below = parts
    _draw_strip(strip, run, album, moment, steps)
    _draw_charts(below, run, album, moment)
    seconds = (moment.predictions.stamp_ns - run.start_ns) / 1e9
    origin = "this run" if atlas is None else "the bundle's atlas"
    figure.suptitle(
        f"Futures predicted from one image, {seconds:.1f} s into {run.name}. Latents cannot be decoded:\n"
        f"a prediction is shown as the most similar frame of {origin}.",
        fontsize=10,
    )
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    plt.close(figure)
    write_file(target, drawn.getvalue())


def _draw_strip(strip: Any, run: Run, album: Atlas, moment: Moment, steps: list[int]) -> None:
    rows = rows_of(moment)
    axes = strip.subplots(len(rows) + 1, len(steps) + 1, squeeze=False)
    _show(axes[0, 0], run.image(moment.frame), "the image")
    for column, step in enumerate(steps, start=1):
        _show(
            axes[0, column],
            run.image(int(moment.observed[step])),
            f"+{moment.predictions.ahead_s[step]:.1f} s",
        )
    axes[0, 1].set_ylabel("observed", fontsize=8)
    goal = run.goal_at(moment.predictions.stamp_ns)
    for row, (name, index) in enumerate(rows, start=1):
        first = decode(goal) if goal is not None and row == 1 else None
        _show(axes[row, 0], first, "the goal" if first is not None else "")
        found, _ = album.nearest(moment.predictions.latents[index][steps])
        for column, frame in enumerate(found, start=1):
            _show(axes[row, column], album.image(int(frame)), "")
        axes[row, 1].set_ylabel(f"predicted:\n{name}", fontsize=8)


def _show(axes: Any, image: Image | None, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    if image is None:
        axes.axis("off")
    else:
        axes.imshow(image)


def _draw_charts(figure: Any, run: Run, album: Atlas, moment: Moment) -> None:
    predictions = moment.predictions
    plane, left, right = figure.subplots(1, 3)
    project = album.project
    start = project(run.latents[moment.frame])
    paths = np.concatenate(
        [np.broadcast_to(start, (len(predictions.latents), 1, 2)), project(predictions.latents)], 1
    )
    plane.scatter(*project(album.latents).T, s=2, color="0.85")
    plane.plot(*paths.transpose(2, 1, 0), color="0.7", linewidth=0.5)
    observed = np.vstack([start, project(run.latents[moment.observed])])
    for name, index in rows_of(moment):
        plane.plot(*paths[index].T, color=_color(moment, index), marker=".", label=name.replace("\n", " "))
    plane.plot(*observed.T, color=OBSERVED.light, marker=".", label="observed")
    # The atlas may be much wider than the paths of one horizon.
    every = np.concatenate([paths.reshape(-1, 2), observed])
    margin = 0.1 * np.ptp(every, axis=0) + 1e-6
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], title="map of futures")
    plane.legend(fontsize=7)
    if predictions.energies is None:
        left.axis("off")
    else:
        left.plot(predictions.ahead_s, predictions.energies.T, color="0.8", linewidth=0.6)
        for name, index in rows_of(moment):
            label, color = name.replace("\n", " "), _color(moment, index)
            left.plot(predictions.ahead_s, predictions.energies[index], color=color, label=label)
        left.set(xlabel="time ahead [s]", ylabel="energy: distance to the goal",
                 title=f"{len(predictions.energies)} candidates")  # fmt: skip
    _draw_errors(right, run, moment)


def _color(moment: Moment, candidate: int) -> str:
    """Return the color of a candidate: executed, best or worst, in the order of the rows."""
    if candidate == moment.executed:
        return EXECUTED.light
    extremes = moment.predictions.best_and_worst
    return WORST.light if extremes is not None and candidate == extremes[1] else BEST.light


def _draw_errors(axes: Any, run: Run, moment: Moment) -> None:
    predictions = moment.predictions
    observed = np.asarray(run.latents[moment.observed], np.float32)
    first = np.asarray(run.latents[moment.frame], np.float32)
    if moment.executed is not None:
        errors = norms(np.asarray(predictions.latents[moment.executed], np.float32) - observed)
        axes.plot(predictions.ahead_s, errors, color=EXECUTED.light, label="nearest to executed")
    persistence = norms(observed - first)
    axes.plot(predictions.ahead_s, persistence, color=BASELINE.light, linestyle="--", label="persistence")
    axes.plot(
        predictions.ahead_s, predictions.bounds, color=BOUND.light, linestyle=":", label="published bound"
    )
    axes.set(xlabel="time ahead [s]", ylabel="distance of latents", title="prediction error",
             ylim=(0, None))  # fmt: skip
    axes.legend(fontsize=7)
