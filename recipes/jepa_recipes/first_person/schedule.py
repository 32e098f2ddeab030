"""The amount of training: how large batches are, and when what is learned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jepa_recipes.first_person.clips import ClipShape
from jepa_recipes.first_person.pairs import MAX_REACH_M

_FIRST_REACH_M = 1.2


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When what is learned, in frames from the start of the run, whatever its length.

    Attributes:
        warmup: The learning rate is full from here on.
        pose: From the first to the second number, the weight of the relative pose grows from 0.1 to 1.
        prediction: The predictor begins here.
        reach: From the first to the second number, the largest distance of pairs grows.
        decay: Over this many frames at the end of the run, the learning rate decays.
        evaluation: The held-out drives are evaluated this often.
    """

    warmup: int = 20_000
    pose: tuple[int, int] = (40_000, 94_000)
    prediction: int = 200_000
    reach: tuple[int, int] = (150_000, 450_000)
    decay: int = 200_000
    evaluation: int = 100_000

    def continued(self) -> Schedule:
        """Return the schedule of networks that have learned all terms before."""
        return replace(self, pose=(0, 1), prediction=0, reach=(0, 1))

    def scaled(self, factor: float) -> Schedule:
        """Return the schedule of a run ``factor`` times as long."""
        return Schedule(
            warmup=round(factor * self.warmup),
            pose=(round(factor * self.pose[0]), round(factor * self.pose[1])),
            prediction=round(factor * self.prediction),
            reach=(round(factor * self.reach[0]), round(factor * self.reach[1])),
            decay=round(factor * self.decay),
            evaluation=round(factor * self.evaluation),
        )

    def pose_weight(self, seen: int) -> float:
        """Return the weight of the relative pose after ``seen`` frames."""
        return 0.1 + 0.9 * _progress(seen, self.pose)

    def reach_m(self, seen: int) -> float:
        """Return the largest distance of pairs after ``seen`` frames."""
        return _FIRST_REACH_M + (MAX_REACH_M - _FIRST_REACH_M) * _progress(seen, self.reach)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Size of a batch, and the schedule.

    Attributes:
        clips: Drives and frames of a batch.
        pairs: Pairs of frames of each drive.
        schedule: When what is learned.
        evaluation_batches: Number of batches, of four drives each, of an evaluation.
    """

    clips: ClipShape = field(default_factory=ClipShape)
    pairs: int = 16
    schedule: Schedule = field(default_factory=Schedule)
    evaluation_batches: int = 96

    def steps(self, frames: int) -> int:
        """Return the training steps that show this number of frames, at least."""
        return -(-frames // self._batch)

    def seen(self, step: int) -> int:
        """Return the number of frames that were shown before a step."""
        return step * self._batch

    @property
    def _batch(self) -> int:
        return self.clips.drives * self.clips.frames


def _progress(seen: int, span: tuple[int, int]) -> float:
    return min(1.0, max(0.0, (seen - span[0]) / (span[1] - span[0])))
