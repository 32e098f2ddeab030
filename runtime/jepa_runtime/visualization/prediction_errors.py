"""Compare predictions with the latents that were then observed, and choose a few moments to show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.embedding import Floats, Latents
from jepa_runtime.visualization.predictions import Predictions, check_finite

_MAX_EVALUATED = 600
_MOMENTS = 4


@dataclass(frozen=True)
class Moment:
    """A frame whose predicted futures are shown.

    Attributes:
        predictions: The futures.
        frame: The index of the frame in the run.
        observed: [H], the frames observed later, one for each step.
        executed: The candidate nearest to the executed actions, or None if these are not known.
        mismatch: Mean absolute difference between the actions of that candidate and the executed ones.
        score: How suitable it is to be shown: the observed change, reduced by the mismatch.
    """

    predictions: Predictions
    frame: int
    observed: NDArray[np.intp]
    executed: int | None
    mismatch: float
    score: float


@dataclass(frozen=True)
class PredictionErrors:
    """Prediction errors of n frames with a candidate close to the executed actions.

    Attributes:
        stamps_ns: [n] of the images.
        distances: [n, H], norms of (predicted - encoded).
        bounds: [n, H], the published error bounds.
        persistence: [n, H], the errors of predicting no change.
        examined: The number of frames examined; n < examined if some had no candidate close to the executed
            actions.
    """

    stamps_ns: NDArray[np.int64]
    distances: Floats
    bounds: Floats
    persistence: Floats
    examined: int


class PredictionScorer:
    """Evaluates predictions message by message, and retains errors and the most suitable moments.

    Args:
        stamps_ns: [N] of the run's frames.
        latents: [N, T, D] of the run's frames.
        commands: The executed commands, or None if they are not known and errors cannot be computed.
        step_s: The time between two steps of a future.
        breaks: Stamps at which the scene changed.
        tolerance: The maximum mean absolute difference between a candidate and the executed actions.
        expected: The number of messages to come.
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
        self._every = -(-expected // _MAX_EVALUATED) if expected else 1
        self._received = self._examined = 0
        self._evaluated: list[tuple[int, Floats, Floats, Floats]] = []
        self._best: dict[int, Moment] = {}

    def add(self, predictions: Predictions) -> None:
        """Add the predictions of the next image.

        Raises:
            ValueError: A number is not finite.
        """
        self._received += 1
        if self._received % self._every:
            return
        check_finite(predictions.latents, predictions.energies)
        frames = self._observed_frames(predictions)
        if frames is None:
            return
        observed = np.asarray(self._latents[frames], np.float32)
        actions = self._executed_actions(predictions)
        executed, mismatch = (None, 0.0) if actions is None else predictions.nearest_to(actions)
        if executed is not None:
            self._examined += 1
            if mismatch <= self._tolerance:
                errors = norms(np.asarray(predictions.latents[executed], np.float32) - observed[1:])
                persistence = norms(observed[:1] - observed[1:])
                self._evaluated.append((predictions.stamp_ns, errors, predictions.bounds, persistence))
        score = float(norms(observed[-1] - observed[0])) / (1.0 + 4.0 * mismatch)
        section = self._section(predictions.stamp_ns)
        if section not in self._best or score > self._best[section].score:
            self._best[section] = Moment(predictions, int(frames[0]), frames[1:], executed, mismatch, score)

    def errors(self) -> PredictionErrors:
        """Return the errors of all evaluated predictions."""
        steps = self._evaluated[0][1].shape[0] if self._evaluated else 0
        columns = [np.array([entry[part] for entry in self._evaluated], np.float32) for part in (1, 2, 3)]
        distances, bounds, persistence = (column.reshape(len(self._evaluated), steps) for column in columns)
        stamps = np.array([entry[0] for entry in self._evaluated], np.int64)
        return PredictionErrors(stamps, distances, bounds, persistence, self._examined)

    def moments(self) -> tuple[Moment, ...]:
        """Return at most one moment from each quarter of the run, in order."""
        return tuple(self._best[section] for section in sorted(self._best))

    def _section(self, stamp_ns: int) -> int:
        fraction = (stamp_ns - self._stamps[0]) / max(self._stamps[-1] - self._stamps[0], 1)
        return min(int(_MOMENTS * fraction), _MOMENTS - 1)

    def _observed_frames(self, predictions: Predictions) -> NDArray[np.intp] | None:
        """Return the frames [H + 1] at the image and at each step.

        Returns None if there is no frame at one of these times, or if the scene changed in between.
        """
        ahead_ns = np.concatenate([[0], np.round(predictions.ahead_s * 1e9)]).astype(np.int64)
        due = predictions.stamp_ns + ahead_ns
        after = np.clip(np.searchsorted(self._stamps, due), 1, len(self._stamps) - 1)
        nearer = due - self._stamps[after - 1] < self._stamps[after] - due
        frames: NDArray[np.intp] = np.where(nearer, after - 1, after)
        broken = np.searchsorted(self._breaks, due[0], "right") != np.searchsorted(
            self._breaks, due[-1], "right"
        )
        if broken or (np.abs(self._stamps[frames] - due) > self._step_ns / 4).any():
            return None
        return frames

    def _executed_actions(self, predictions: Predictions) -> Floats | None:
        """Return the mean command of each step [H, A], or None if one is not known."""
        if self._commands is None or predictions.actions.shape[2] != len(self._commands.names):
            return None
        ends = predictions.stamp_ns + np.round(predictions.ahead_s * 1e9).astype(np.int64)
        starts = np.concatenate([ends[:1] - self._step_ns, ends[:-1]])
        if not self._commands.known(starts).all():
            return None
        return self._commands.mean(starts, ends)


def norms(differences: Floats) -> Floats:
    """Return the norms [...] of ``differences`` [..., T, D] over tokens and dimensions."""
    found: Floats = np.sqrt(np.square(differences).sum(axis=(-2, -1)))
    return found
