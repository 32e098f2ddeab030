"""futures.png from a recording of the demo: what the camera saw, the futures predicted, and what then
happened.

Latents cannot be decoded into images. A predicted future is shown as the recorded frame of the same episode
whose latent is most similar to it, which may be a frame that came later: what is judged by eye is whether the
right place was foreseen.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from numpy.typing import NDArray

from jepa_runtime.recording.definitions import typestore
from jepa_runtime.recording.messages import array_of

IMAGE, LATENT, FUTURES = "/camera/image_raw", "/world_model/latent", "/world_model/futures"
COMMAND, GOAL, INFO = "/cmd_vel", "/goal_image", "/world_model/model_info"
_MAX_STRIP = 8


@dataclass(frozen=True)
class Moment:
    """One image from which futures were predicted, and what came after it.

    ``frames`` [H+1, h, w, 3] from that moment on, one step apart; ``latents`` [H+1, T, D] of them;
    ``predicted`` [K, H, T, D], ``actions`` [K, H, A], ``energies`` [K, H], ``bounds`` [H]; ``taken`` [H, A]:
    the mean action of each step; ``goal``: its image; ``album``: the frames and latents of the episode.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    predicted: NDArray[np.float32]
    actions: NDArray[np.float32]
    energies: NDArray[np.float32]
    bounds: NDArray[np.float32]
    taken: NDArray[np.float32]
    goal: NDArray[np.uint8]
    album: tuple[NDArray[np.uint8], NDArray[np.float32]]
    step_s: float
    time_s: float


def draw(recording: Path, target: Path) -> str:
    """Draw ``target`` from ``recording``; returns what to say about it, also when there is nothing to
    draw."""
    moment = find_moment(read(recording))
    if moment is None:
        return "(not drawn: the robot never drove towards a goal for a whole horizon)"
    try:
        import matplotlib
    except ImportError:
        return "(not drawn: matplotlib is missing; pip install 'jepa-edge[viz]')"
    matplotlib.use("Agg")
    _draw(moment, target)
    return ""


def read(recording: Path) -> dict[str, list[tuple[int, Any]]]:
    """The messages that the picture needs, by topic, each with its stamp (the image's, or the time of
    recording) in ns."""
    found: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    store = typestore()
    with recording.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages(
            [IMAGE, LATENT, FUTURES, COMMAND, GOAL, INFO]
        ):
            decoded = store.deserialize_cdr(message.data, schema.name if schema else "")
            header = getattr(decoded, "header", None)
            stamp_ns = message.log_time
            if header is not None:
                stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            found[channel.topic].append((stamp_ns, decoded))
    return found


def find_moment(found: dict[str, list[tuple[int, Any]]]) -> Moment | None:
    """The image after which the robot got furthest in one horizon while it was seeking its goal."""
    if not found[INFO] or not found[GOAL]:
        return None
    info = found[INFO][-1][1]
    step_ns = round(info.step_s * 1e9)
    images, latents = (
        dict(found[IMAGE]),
        {stamp: array_of(message.latent) for stamp, message in found[LATENT]},
    )
    seen = np.array(sorted(images.keys() & latents.keys()))
    best: tuple[float, Moment] | None = None
    # Every third future is enough to choose from, and takes a third of the time.
    for stamp_ns, futures in found[FUTURES][::3]:
        due = stamp_ns + step_ns * np.arange(info.horizon + 1)
        episode = _episode(found, stamp_ns)
        if episode is None or not futures.has_goal or not episode[0] < stamp_ns < due[-1] < episode[1]:
            continue
        nearest = seen[np.abs(seen[:, None] - due).argmin(axis=0)]
        if (np.abs(nearest - due) > step_ns / 4).any():
            continue
        taken = _taken(found[COMMAND], due)
        actions = array_of(futures.actions)
        # The picture compares a candidate with what happened: they must be about the same actions.
        mismatch = np.abs(actions - taken).mean(axis=(1, 2)).min() if taken is not None else np.inf
        course = np.stack([latents[stamp] for stamp in nearest])
        score = float(np.linalg.norm(course[-1] - course[0])) / (1.0 + 4.0 * mismatch)
        if taken is not None and (best is None or score > best[0]):
            album = seen[(seen > episode[0]) & (seen < episode[1])]
            moment = Moment(
                frames=np.stack([_pixels(images[stamp]) for stamp in nearest]),
                latents=course,
                predicted=array_of(futures.latents).astype(np.float32),
                actions=actions,
                energies=array_of(futures.energies),
                bounds=np.asarray(futures.error_bounds),
                taken=taken,
                goal=_pixels(episode[2]),
                album=(
                    np.stack([_pixels(images[stamp]) for stamp in album]),
                    np.stack([latents[stamp] for stamp in album]),
                ),
                step_s=info.step_s,
                time_s=(stamp_ns - found[IMAGE][0][0]) / 1e9,
            )
            best = (score, moment)
    return None if best is None else best[1]


def _episode(found: dict[str, list[tuple[int, Any]]], stamp_ns: int) -> tuple[int, int, Any] | None:
    """Beginning, end and goal image of the episode at ``stamp_ns``."""
    starts = [stamp for stamp, _ in found[GOAL]]
    index = int(np.searchsorted(starts, stamp_ns)) - 1
    if index < 0:
        return None
    end = starts[index + 1] if index + 1 < len(starts) else found[IMAGE][-1][0] + 1
    return starts[index], end, found[GOAL][index][1]


def _taken(commands: list[tuple[int, Any]], due: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Mean command of each step [H, 2]; None where none was given."""
    stamps = np.array([stamp for stamp, _ in commands], np.int64)
    values = np.array([(twist.linear.x, twist.linear.y) for _, twist in commands], np.float32)
    means = []
    for start, end in pairwise(due):
        inside = (stamps >= start) & (stamps < end)
        if not inside.any():
            return None
        means.append(values[inside].mean(axis=0))
    return np.stack(means)


def _pixels(image: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.frombuffer(image.data, np.uint8)
    return pixels.reshape(image.height, image.width, 3)


def _look_up(moment: Moment, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The frame of the episode most similar to each of ``latents`` [H, T, D]."""
    frames, known = moment.album
    distance = ((latents[:, None] - known[None]) ** 2).sum(axis=(2, 3))
    return frames[distance.argmin(axis=1)]


def _draw(moment: Moment, target: Path) -> None:
    import matplotlib.pyplot as plt

    alike = int(np.abs(moment.actions - moment.taken).mean(axis=(1, 2)).argmin())
    cost = moment.energies.sum(axis=1)
    best, worst = int(cost.argmin()), int(cost.argmax())
    rows = (
        ("what then happened", moment.frames[1:]),
        (
            "predicted for\nthe candidate\nnearest to the\nactions taken",
            _look_up(moment, moment.predicted[alike]),
        ),
        ("predicted for the\nbest candidate", _look_up(moment, moment.predicted[best])),
        ("predicted for the\nworst candidate", _look_up(moment, moment.predicted[worst])),
    )
    steps = _strip(len(moment.frames) - 1)
    figure = plt.figure(figsize=(2.2 + 1.35 * (len(steps) + 1), 10.2), constrained_layout=True)
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[len(rows) * 1.5, 3.2])
    strip, charts = subfigures
    axes = strip.subplots(len(rows), len(steps) + 1, squeeze=False)
    for row, (label, frames) in enumerate(rows):
        first = moment.frames[0] if row == 0 else moment.goal if row == 1 else None
        _show(axes[row, 0], first, {0: "the image", 1: "the goal"}.get(row, ""))
        for column, step in enumerate(steps, start=1):
            _show(axes[row, column], frames[step], f"+{(step + 1) * moment.step_s:.1f} s" if row == 0 else "")
        axes[row, 1].set_ylabel(label, fontsize=8)
    _draw_charts(charts, moment, best=best, worst=worst, alike=alike)
    figure.suptitle(
        f"Futures predicted from one image, {moment.time_s:.1f} s into the demo. Latents cannot be decoded: a"
        " prediction is shown as\nthe recorded frame of this episode whose latent is most similar to it.",
        fontsize=10,
    )
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _strip(horizon: int) -> list[int]:
    return sorted({round(step) for step in np.linspace(0, horizon - 1, min(horizon, _MAX_STRIP))})


def _show(axes: Any, image: NDArray[np.uint8] | None, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    if image is None:
        axes.axis("off")
    else:
        axes.imshow(image)


def _draw_charts(figure: Any, moment: Moment, *, best: int, worst: int, alike: int) -> None:
    left, right = figure.subplots(1, 2)
    ahead = moment.step_s * np.arange(1, len(moment.taken) + 1)
    left.plot(ahead, moment.energies.T, color="0.8", linewidth=0.6)
    for index, colour, label in (
        (worst, "tab:red", "worst"),
        (best, "tab:green", "best"),
        (alike, "tab:blue", "as driven"),
    ):
        left.plot(ahead, moment.energies[index], color=colour, label=label)
    left.set(
        xlabel="time ahead [s]",
        ylabel="energy: distance to the goal",
        title=f"{len(moment.energies)} candidates",
    )
    left.legend(fontsize=8)
    arrived = moment.latents[1:]
    right.plot(
        ahead, _distance(moment.predicted[alike], arrived), color="tab:blue", label="prediction as driven"
    )
    right.plot(
        ahead,
        _distance(moment.latents[:1], arrived),
        color="0.5",
        linestyle="--",
        label="assuming that nothing moves",
    )
    right.plot(
        ahead, moment.bounds, color="tab:orange", linestyle=":", label="90 % bound in the model's manifest"
    )
    right.set(
        xlabel="time ahead [s]",
        ylabel="distance of latents",
        title="prediction against what came",
        ylim=(0, None),
    )
    right.legend(fontsize=8)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    difference: NDArray[np.float32] = np.sqrt(((one - other) ** 2).sum(axis=(1, 2)))
    return difference


def main() -> int:
    """Draw the picture of a recording."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, help="demo.mcap")
    parser.add_argument("target", type=Path, help="the PNG file to write")
    arguments = parser.parse_args()
    note = draw(arguments.recording, arguments.target)
    print(note or arguments.target)
    return int(bool(note))


if __name__ == "__main__":
    sys.exit(main())
