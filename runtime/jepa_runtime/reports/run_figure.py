"""One moment of a run as a PNG: observed and predicted frames, the map, energies and errors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.reports.svg_plot import top_with_limit
from jepa_runtime.util.output_files import write_file
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.futures_picture import COLORS, MomentPicture
from jepa_runtime.visualization.palette import BASELINE, BOUND, EXECUTED
from jepa_runtime.visualization.run_data import Run

_DPI = 110


def draw_run(run: Run, target: Path, atlas: Atlas | None = None) -> None:
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
    picture = MomentPicture.of(run, moment, album)
    rows, columns = len(picture.futures.candidates), len(picture.futures.steps)
    figure = plt.figure(figsize=(2.2 + 1.35 * (columns + 1), 1.5 * rows + 5.4), constrained_layout=True)
    parts: Any = figure.subfigures(2, 1, height_ratios=[(rows + 1) * 1.5, 3.6])
    strip, below = parts
    _draw_strip(strip, run, album, picture)
    _draw_charts(below, album, picture)
    origin = "this run" if atlas is None else "the bundle's atlas"
    figure.suptitle(
        f"Futures predicted from one image, {picture.at_s:.1f} s into {run.name}. Latents cannot be "
        f"decoded:\na prediction is shown as the most similar frame of {origin}.",
        fontsize=10,
    )
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    plt.close(figure)
    write_file(target, drawn.getvalue())


def _draw_strip(strip: Any, run: Run, album: Atlas, picture: MomentPicture) -> None:
    futures = picture.futures
    axes = strip.subplots(len(futures.candidates) + 1, len(futures.steps) + 1, squeeze=False)
    _show(axes[0, 0], run.image(picture.frame), "the image")
    for column, step in enumerate(futures.steps, start=1):
        observed = run.image(int(picture.observed[step]))
        _show(axes[0, column], observed, f"+{futures.ahead_s[step]:.1f} s")
    axes[0, 1].set_ylabel("observed", fontsize=8)
    goal = run.goal_at(futures.stamp_ns)
    for row, candidate in enumerate(futures.candidates, start=1):
        first = decode(goal) if goal is not None and row == 1 else None
        _show(axes[row, 0], first, "the goal" if first is not None else "")
        for column, frame in enumerate(candidate.frames, start=1):
            _show(axes[row, column], album.image(int(frame)), "")
        axes[row, 1].set_ylabel(f"predicted:\n{candidate.label}", fontsize=8)


def _show(axes: Any, image: Image | None, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    if image is None:
        axes.axis("off")
    else:
        axes.imshow(image)


def _draw_charts(figure: Any, album: Atlas, picture: MomentPicture) -> None:
    plane, left, right = figure.subplots(1, 3)
    futures, observed = picture.futures, picture.observed_path
    plane.scatter(*album.project(album.latents).T, s=2, color="0.85")
    for index in range(len(futures.paths)):
        plane.plot(*futures.path(index).T, color="0.7", linewidth=0.5)
    for candidate in futures.candidates:
        path, color = futures.path(candidate.index), COLORS[candidate.role].light
        plane.plot(*path.T, color=color, marker=".", label=candidate.label)
    plane.plot(*observed.T, color=COLORS["observed"].light, marker=".", label="observed")
    # The atlas may be much wider than the paths of one horizon.
    every = np.concatenate([futures.paths.reshape(-1, 2), observed])
    margin = 0.1 * np.ptp(every, axis=0) + 1e-6
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    across, upward = (
        f"axis {axis}: {share:.0%} of the variance" for axis, share in enumerate(futures.explained, start=1)
    )
    plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], title="map of futures",
              xlabel=across, ylabel=upward)  # fmt: skip
    plane.legend(fontsize=7)
    if futures.energies is None:
        left.axis("off")
    else:
        left.plot(futures.ahead_s, futures.energies.T, color="0.8", linewidth=0.6)
        for candidate in futures.candidates:
            energies, color = futures.energies[candidate.index], COLORS[candidate.role].light
            left.plot(futures.ahead_s, energies, color=color, label=candidate.label)
        left.set(xlabel="time ahead [s]", ylabel="energy: distance to the goal",
                 title=f"{len(futures.energies)} candidates")  # fmt: skip
    _draw_errors(right, picture)


def _draw_errors(axes: Any, picture: MomentPicture) -> None:
    ahead_s, bounds = picture.futures.ahead_s, picture.futures.bounds
    series = [picture.persistence]
    if picture.errors is not None:
        series.append(picture.errors)
        axes.plot(ahead_s, picture.errors, color=EXECUTED.light, label="nearest to executed")
    axes.plot(ahead_s, picture.persistence, color=BASELINE.light, linestyle="--", label="persistence")
    axes.plot(ahead_s, bounds, color=BOUND.light, linestyle=":", label="published bound")
    top, _ = top_with_limit(series, bounds)
    axes.set(xlabel="time ahead [s]", ylabel="distance of latents", title="prediction error",
             ylim=(0, top))  # fmt: skip
    axes.legend(fontsize=7)
