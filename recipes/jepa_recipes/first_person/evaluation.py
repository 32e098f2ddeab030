"""How accurately relative poses are read, and latents predicted, in held-out layouts.

Distances and angles are by the odometry of the drives, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import (
    DIRECTION,
    DISTANCE_OFFSET_M,
    HEADING,
    LOG_DISTANCE,
    ActionPredictor,
    RelativePoseHead,
)
from jepa_recipes.first_person.odometry_losses import clamped_log_scales, relative_poses
from jepa_recipes.first_person.pairs import MAX_REACH_M, sample_pairs
from jepa_recipes.first_person.prediction_losses import imagine, prediction_errors

_DISTANCES_M = (0.2, 0.6, 1.0, 1.5, 2.2, 3.0)
_TURNS_DEG = (0, 45, 90)
_BEARINGS_DEG = (0, 20, 60, 120, 180)
# A reading is overconfident if it expects a smaller error of the heading than the first number, and has a
# larger one than the second.
_CONFIDENT_DEG, _WRONG_DEG = 20, 45
_ALL_TURNS_DEG = (0, 45, 90, 135, 180)
_PAIRS = 20
_SHAPE = ClipShape(drives=4, frames=10, turned=3, consecutive=1)
# A median of fewer pairs is not reported.
_LEAST_PAIRS = 10
_READINGS = ("bearing_deg", "heading_deg", "log_distance")
_BY_BEARING = "bearing_deg_by_bearing"
_OVERCONFIDENT = "overconfident"
_PREDICTION = "prediction_error"
TABLES = (*_READINGS, _BY_BEARING, _OVERCONFIDENT, _PREDICTION)
# From images [N, height, width, 3] to latents [N, TOKENS, dim].
Encoder = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(
    encoder: Encoder,
    head: RelativePoseHead,
    predictor: ActionPredictor,
    held_out: DriveLibrary,
    *,
    batches: int,
) -> dict[str, dict[str, float]]:
    """Return the tables :data:`TABLES`.

    The first three have the median errors of readings by distance and turn between two frames, the fourth one
    those of bearings by distance and bearing of frames turned less than 45 degrees, the fifth one the
    proportion of overconfident readings by turn; the last one has the error of predictions of each step, and
    that of a prediction that nothing moves.
    """
    rng = np.random.default_rng(0)
    readings, predictions = list[Tensor](), list[Tensor]()
    for _ in range(batches):
        clips = sample_clips(held_out, _SHAPE, rng, augment=False)
        latents = encoder(torch.from_numpy(clips.images).flatten(0, 1))
        pairs = sample_pairs(clips.odometry, _PAIRS, reach_m=MAX_REACH_M, rng=rng)
        first, second = (torch.from_numpy(numbers) for numbers in pairs)
        odometry = torch.from_numpy(clips.odometry).flatten(0, 1)
        pose = relative_poses(odometry[first], odometry[second])
        readings.append(reading_errors(head(latents[first], latents[second]), pose))
        driven = slice(_SHAPE.consecutive), slice(_SHAPE.frames - _SHAPE.turned)
        consecutive = latents.unflatten(0, (-1, _SHAPE.frames))[driven]
        commands = torch.from_numpy(clips.commands)[driven]
        imagined = imagine(predictor, consecutive, commands)
        unchanged = imagine(predict_unchanged, consecutive, commands)
        predictions.append(
            torch.cat([prediction_errors(imagined, consecutive), prediction_errors(unchanged, consecutive)])
        )
    return _reading_tables(torch.cat(readings)) | {_PREDICTION: _prediction_row(torch.stack(predictions))}


def predict_unchanged(latent: Tensor, previous: Tensor, action: Tensor) -> Tensor:
    """Predict that nothing moves."""
    del previous, action
    return latent


def reading_errors(read: Tensor, pose: Tensor) -> Tensor:
    """Return the errors of readings [N, 8] of poses [N, 3].

    Returns:
        [N, 7]: distance, turn and bearing of the poses, the errors of bearing, heading and log distance, and
        the expected error of the heading; angles in degrees.
    """
    distance = pose[:, :2].norm(dim=-1)
    direction = torch.atan2(pose[:, 1], pose[:, 0])
    bearing = _apart(read[:, DIRECTION], direction)
    heading = _apart(read[:, HEADING], pose[:, 2])
    log_distance = (read[:, LOG_DISTANCE] - torch.log(distance + DISTANCE_OFFSET_M)).abs()
    turn = _wrapped(pose[:, 2]).abs().rad2deg()
    expected = clamped_log_scales(read)[:, 2].exp().rad2deg()
    columns = [distance, turn, direction.abs().rad2deg(), bearing, heading, log_distance, expected]
    return torch.stack(columns, dim=-1)


def _apart(direction: Tensor, angle: Tensor) -> Tensor:
    """Return the angle between directions [N, 2] and angles [N] in degrees."""
    return _wrapped(torch.atan2(direction[:, 1], direction[:, 0]) - angle).abs().rad2deg()


def _wrapped(angle: Tensor) -> Tensor:
    return (angle + math.pi).remainder(2 * math.pi) - math.pi


def _reading_tables(rows: Tensor) -> dict[str, dict[str, float]]:
    tables: dict[str, dict[str, float]] = {table: {} for table in (*_READINGS, _BY_BEARING, _OVERCONFIDENT)}
    for near, far in pairwise(_DISTANCES_M):
        apart = rows[(rows[:, 0] >= near) & (rows[:, 0] < far)]
        for least, most in pairwise(_TURNS_DEG):
            turned = apart[(apart[:, 1] >= least) & (apart[:, 1] < most)]
            for column, reading in enumerate(_READINGS, start=3):
                tables[reading][f"{near}-{far}m_{least}-{most}deg"] = _median(turned[:, column])
        facing = apart[apart[:, 1] < _TURNS_DEG[1]]
        for least, most in pairwise(_BEARINGS_DEG):
            chosen = facing[(facing[:, 2] >= least) & (facing[:, 2] < most)]
            tables[_BY_BEARING][f"{near}-{far}m_{least}-{most}deg"] = _median(chosen[:, 3])
    overconfident = (rows[:, 6] < _CONFIDENT_DEG) & (rows[:, 4] > _WRONG_DEG)
    for least, most in pairwise(_ALL_TURNS_DEG):
        turned = (rows[:, 1] >= least) & (rows[:, 1] < most)
        tables[_OVERCONFIDENT][f"{least}-{most}deg"] = float(overconfident[turned].float().mean())
    return tables


def _median(errors: Tensor) -> float:
    return float(errors.median()) if len(errors) >= _LEAST_PAIRS else math.nan


def _prediction_row(errors: Tensor) -> dict[str, float]:
    predicted, unchanged = errors.mean(0).chunk(2)
    return {f"step_{step}": float(error) for step, error in enumerate(predicted, start=1)} | {
        f"unchanged_{step}": float(error) for step, error in enumerate(unchanged, start=1)
    }
