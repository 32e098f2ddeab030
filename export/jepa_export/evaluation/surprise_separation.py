"""Whether surprise separates impossible events from normal ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_export.evaluation.reference_outputs import check_finite
from jepa_export.evaluation.results import Event, Surprise
from jepa_export.evaluation.two_rooms_clips import Scenes
from jepa_runtime.model import WorldModel
from jepa_runtime.util import MIN_SAMPLES, RESAMPLES, confidence_interval

Floats64 = NDArray[np.float64]


def separate(
    model: WorldModel, name: str, scenes: Scenes, *, seed: int, tick: Callable[[], None]
) -> Surprise:
    """Measure the surprise of an open model at normal and at impossible outcomes of each scene.

    Raises:
        JepaExportError: An output is not finite.
    """
    scores: dict[str, list[float]] = {event: [] for event in scenes.outcomes}
    for index, (past, actions) in enumerate(zip(scenes.past, scenes.actions, strict=True)):
        known = np.stack([model.encode(frame) for frame in past])
        for event, images in scenes.outcomes.items():
            arrived = model.encode(images[index])
            scores[event].append(model.surprise(known, actions[:-1], actions[-1], arrived))
        tick()
    threshold = model.manifest.surprise_threshold
    measured = {event: np.array(values) for event, values in scores.items()}
    for event, values in measured.items():
        check_finite(f"{name}: the surprise", values, f"{event} frames of Two Rooms")
    normal = measured.pop("normal")
    return Surprise(
        threshold=threshold,
        false_alarms=float((normal > threshold).mean()),
        events={
            event: Event(*auroc(normal, values, seed=seed), detected=float((values > threshold).mean()))
            for event, values in measured.items()
        },
        scores=scores,
    )


def auroc(normal: Floats64, event: Floats64, *, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Return the area under the ROC curve and its 95 % interval.

    The area is the proportion of pairs in which the event [n] surprises more than the normal frame [n], ties
    counting half (Hanley & McNeil 1982). The interval is a percentile bootstrap over scenes, because both
    frames of a scene share room and light; None for fewer than 20 scenes. If the distributions do not
    overlap, it is [1, 1]: the scenes show no lower value, which does not exclude one.
    """
    above = (event[:, None] > normal) + 0.5 * (event[:, None] == normal)
    count = len(normal)
    if count < MIN_SAMPLES:
        return float(above.mean()), None
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return float(above.mean()), confidence_interval(((drawn @ above) * drawn).sum(axis=1) / count**2)


def roc(normal: Floats64, event: Floats64) -> list[tuple[float, float]]:
    """Return the ROC curve as points (false alarms, detected), for all thresholds from the highest."""
    thresholds = np.unique(np.concatenate([normal, event]))[::-1]
    points = [(float((normal >= at).mean()), float((event >= at).mean())) for at in thresholds]
    return [(0.0, 0.0), *points]
