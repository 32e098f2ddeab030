"""One moment of a run as a PNG: what then came, what had been foreseen, the map, energies and errors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.reports.run_page import rows_of
from jepa_runtime.util.output_files import write
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.prediction_errors import Moment, norms
from jepa_runtime.visualization.run_data import Run

_COLOURS = ("tab:blue", "tab:green", "tab:red")
_DPI = 110


def draw(run: Run, target: Path, atlas: Atlas | None = None) -> None:
    """Draw the moment of the run in which most happened.

    Args:
        run: what the bag told.
        target: the PNG file to write.
        atlas: of the bundle, to look predicted latents up in; left out: frames of the run itself.

    Raises:
        RecordingError: nothing was foreseen long enough to be drawn, or matplotlib is missing.
        JepaRuntimeError: the file cannot be written.
    """
    if not run.moments:
        raise RecordingError(
            f"{run.name}: no future of it was seen through to its end, so there is nothing to draw"
        )
    try:
        import matplotlib
    except ImportError as error:
        raise RecordingError("a PNG takes matplotlib: pip install 'jepa-edge[viz]'") from error
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
    which = "frame of this run" if atlas is None else "frame that the bundle remembers"
    figure.suptitle(
        f"Futures foreseen from one image, {seconds:.1f} s into {run.name}. Latents cannot be decoded:\n"
        f"a prediction is shown as the {which} whose latent is most similar to it.",
        fontsize=10,
    )
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    plt.close(figure)
    write(target, drawn.getvalue())


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
    axes[0, 1].set_ylabel("what then came", fontsize=8)
    goal = run.goal_at(moment.predictions.stamp_ns)
    for row, (name, index) in enumerate(rows, start=1):
        first = decode(goal) if goal is not None and row == 1 else None
        _show(axes[row, 0], first, "the goal" if first is not None else "")
        found, _ = album.nearest(moment.predictions.latents[index][steps])
        for column, frame in enumerate(found, start=1):
            _show(axes[row, column], album.image(int(frame)), "")
        axes[row, 1].set_ylabel(f"foreseen:\n{name}", fontsize=8)


def _show(axes: Any, image: Image | None, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    if image is None:
        axes.axis("off")
    else:
        axes.imshow(image)


def _draw_charts(figure: Any, run: Run, album: Atlas, moment: Moment) -> None:
    foreseen = moment.predictions
    plane, left, right = figure.subplots(1, 3)
    project = album.project
    start = project(run.latents[moment.frame])
    paths = np.concatenate(
        [np.broadcast_to(start, (len(foreseen.latents), 1, 2)), project(foreseen.latents)], 1
    )
    plane.scatter(*project(album.latents).T, s=2, color="0.85")
    plane.plot(*paths.transpose(2, 1, 0), color="0.7", linewidth=0.5)
    came = np.vstack([start, project(run.latents[moment.observed])])
    for (name, index), colour in zip(rows_of(moment), _COLOURS, strict=False):
        plane.plot(*paths[index].T, color=colour, marker=".", label=name.replace("\n", " "))
    plane.plot(*came.T, color="black", marker=".", label="what came")
    # All that was remembered may be far wider than one horizon.
    every = np.concatenate([paths.reshape(-1, 2), came])
    room = 0.1 * np.ptp(every, axis=0) + 1e-6
    low, high = every.min(axis=0) - room, every.max(axis=0) + room
    plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], title="map of futures")
    plane.legend(fontsize=7)
    if foreseen.energies is None:
        left.axis("off")
    else:
        left.plot(foreseen.ahead_s, foreseen.energies.T, color="0.8", linewidth=0.6)
        for (name, index), colour in zip(rows_of(moment), _COLOURS, strict=False):
            left.plot(foreseen.ahead_s, foreseen.energies[index], color=colour, label=name.replace("\n", " "))
        left.set(xlabel="time ahead [s]", ylabel="energy: distance to the goal",
                 title=f"{len(foreseen.energies)} candidates")  # fmt: skip
    _draw_errors(right, run, moment)


def _draw_errors(axes: Any, run: Run, moment: Moment) -> None:
    foreseen = moment.predictions
    came = np.asarray(run.latents[moment.observed], np.float32)
    first = np.asarray(run.latents[moment.frame], np.float32)
    if moment.executed is not None:
        away = norms(np.asarray(foreseen.latents[moment.executed], np.float32) - came)
        axes.plot(foreseen.ahead_s, away, color="tab:blue", label="nearest to what was driven")
    axes.plot(foreseen.ahead_s, norms(came - first), color="0.5", linestyle="--", label="if nothing moved")
    axes.plot(
        foreseen.ahead_s, foreseen.bounds, color="tab:orange", linestyle=":", label="bound that was published"
    )
    axes.set(xlabel="time ahead [s]", ylabel="distance of latents", title="foreseen against what came",
             ylim=(0, None))  # fmt: skip
    axes.legend(fontsize=7)
