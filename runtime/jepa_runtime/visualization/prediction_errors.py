"""Did what was foreseen hold? Predictions against the latents that then came, and a few moments to show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.embedding import Floats, Latents
from jepa_runtime.visualization.predictions import Predictions, check_finite

_MOST_JUDGED = 600
_MOMENTS = 4


@dataclass(frozen=True)
class Moment:
    """A moment from which futures are shown.

    Attributes:
        foreseen: the futures.
        frame: of the run, from which they start.
        course: [H], the frames that then came, one for each step.
        alike: the candidate nearest to what was then driven; None where that is not known.
        mismatch: how far its actions were from those, on average.
        worth: of being shown: how much happened, if a candidate was about the same actions.
    """

    foreseen: Predictions
    frame: int
    course: NDArray[np.intp]
    alike: int | None
    mismatch: float
    worth: float


@dataclass(frozen=True)
class PredictionErrors:
    """How far predictions lay from what came, of the candidate nearest to what was driven if one was near.

    Attributes:
        stamps_ns: [n] of the images.
        distances: [n, H], norms of (predicted - encoded).
        bounds: [n, H], what was stated.
        still: [n, H], the same for who says that nothing moves.
        looked_at: of how many images; n < looked_at where no candidate was near to what was driven.
    """

    stamps_ns: NDArray[np.int64]
    distances: Floats
    bounds: Floats
    still: Floats
    looked_at: int


class PredictionScorer:
    """Takes what was foreseen, message by message, and keeps what is worth it.

    Args:
        stamps_ns, latents: of the run's frames, [N] and [N, T, D].
        commands: what the robot was told; None: not known, then no prediction can be judged.
        step_s: between two steps of a future.
        breaks: stamps at which another scene began.
        tolerance: how far actions may lie from those driven, on average.
        expected: how many messages will come.
    """

    def __init__(
        self,
        stamps_ns: NDArray[np.int64],
        latents: Latents,
        *,
        commands: Commands | None,
        step_s: float,
        breaks: NDArray[np.int64],
        tolerance: float,
        expected: int,
    ) -> None:
        self._stamps, self._latents = stamps_ns, latents
        self._commands, self._breaks = commands, breaks
        self._step_ns = round(step_s * 1e9)
        self._tolerance = tolerance
        self._every = -(-expected // _MOST_JUDGED) if expected else 1
        self._seen = self._looked_at = 0
        self._judged: list[tuple[int, Floats, Floats, Floats]] = []
        self._best: dict[int, Moment] = {}

    def add(self, foreseen: Predictions) -> None:
        """What was foreseen from the next image.

        Raises:
            ValueError: some of it is no number.
        """
        self._seen += 1
        if self._seen % self._every:
            return
        check_finite(foreseen.latents, foreseen.energies)
        frames = self._course(foreseen)
        if frames is None:
            return
        came = np.asarray(self._latents[frames], np.float32)
        taken = self._taken(foreseen)
        alike, mismatch = (None, 0.0) if taken is None else foreseen.alike(taken)
        if alike is not None:
            self._looked_at += 1
            if mismatch <= self._tolerance:
                away = norms(np.asarray(foreseen.latents[alike], np.float32) - came[1:])
                self._judged.append((foreseen.stamp_ns, away, foreseen.bounds, norms(came[:1] - came[1:])))
        worth = float(norms(came[-1] - came[0])) / (1.0 + 4.0 * mismatch)
        place = self._place(foreseen.stamp_ns)
        if place not in self._best or worth > self._best[place].worth:
            self._best[place] = Moment(foreseen, int(frames[0]), frames[1:], alike, mismatch, worth)

    def errors(self) -> PredictionErrors:
        """What came of those that were judged."""
        steps = self._judged[0][1].shape[0] if self._judged else 0
        columns = [np.array([entry[part] for entry in self._judged], np.float32) for part in (1, 2, 3)]
        distances, bounds, still = (column.reshape(len(self._judged), steps) for column in columns)
        stamps = np.array([entry[0] for entry in self._judged], np.int64)
        return PredictionErrors(stamps, distances, bounds, still, self._looked_at)

    def moments(self) -> tuple[Moment, ...]:
        """At most one from each quarter of the run, in their order."""
        return tuple(self._best[place] for place in sorted(self._best))

    def _place(self, stamp_ns: int) -> int:
        share = (stamp_ns - self._stamps[0]) / max(self._stamps[-1] - self._stamps[0], 1)
        return min(int(_MOMENTS * share), _MOMENTS - 1)

    def _course(self, foreseen: Predictions) -> NDArray[np.intp] | None:
        """The frames [H + 1] at the image and at each step; None where one was not seen, or another scene
        began meanwhile."""
        due = foreseen.stamp_ns + np.concatenate([[0], np.round(foreseen.ahead_s * 1e9)]).astype(np.int64)
        after = np.clip(np.searchsorted(self._stamps, due), 1, len(self._stamps) - 1)
        nearer = due - self._stamps[after - 1] < self._stamps[after] - due
        frames: NDArray[np.intp] = np.where(nearer, after - 1, after)
        broken = np.searchsorted(self._breaks, due[0], "right") != np.searchsorted(
            self._breaks, due[-1], "right"
        )
        if broken or (np.abs(self._stamps[frames] - due) > self._step_ns / 4).any():
            return None
        return frames

    def _taken(self, foreseen: Predictions) -> Floats | None:
        """The mean command of each step [H, A]; None where one is not known."""
        if self._commands is None or foreseen.actions.shape[2] != len(self._commands.names):
            return None
        ends = foreseen.stamp_ns + np.round(foreseen.ahead_s * 1e9).astype(np.int64)
        starts = np.concatenate([[foreseen.stamp_ns], ends[:-1]])
        if not self._commands.known(starts).all():
            return None
        return self._commands.mean(starts, ends)


def norms(differences: Floats) -> Floats:
    """[...] of ``differences`` [..., T, D], over tokens and dimensions."""
    found: Floats = np.sqrt(np.square(differences).sum(axis=(-2, -1)))
    return found
