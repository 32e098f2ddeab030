"""The data of a picture of futures, from which pages, figures, topic images and viewers draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Floats
from jepa_runtime.visualization.palette import BEST, EXECUTED, OBSERVED, WORST, Color
from jepa_runtime.visualization.prediction_errors import Moment, norms
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.run_data import Run

Role = Literal["executed", "best", "worst", "first"]

COLORS: Mapping[str, Color] = {
    "observed": OBSERVED,
    "executed": EXECUTED,
    "best": BEST,
    "worst": WORST,
    "first": BEST,
}
"""The color of each role of a candidate, and of what was observed."""


@dataclass(frozen=True)
class Candidate:
    """A candidate that is shown.

    Attributes:
        role: ``executed``: the one nearest to the executed actions; ``best`` and ``worst``: those with the
            smallest and the largest sum of energies; ``first`` if there is none of these.
        index: Its index among the candidates.
        frames: [C], the stored frame nearest to its latent at each shown step.
        distances: [C], the distances of their latents.
    """

    role: Role
    index: int
    frames: NDArray[np.intp]
    distances: Floats

    @property
    def label(self) -> str:
        """The role in words."""
        return "nearest to executed" if self.role == "executed" else f"{self.role} candidate"


@dataclass(frozen=True)
class FuturesPicture:
    """K futures of H steps from one image.

    Attributes:
        stamp_ns: The stamp of the image.
        ahead_s: [H], the time of each step after the image.
        steps: [C], the indices of the steps that are shown as columns.
        candidates: The candidates that are shown as rows.
        start: [2], the image on the map.
        paths: [K, H, 2], all candidates on the map.
        explained: [2], the fraction of the variance along each axis of the map.
        energies: [K, H], distances to the goal; None without a goal.
        current_energy: The energy of the image itself; NaN without a goal.
        bounds: [H], the error bounds.
    """

    stamp_ns: int
    ahead_s: NDArray[np.float64]
    steps: list[int]
    candidates: tuple[Candidate, ...]
    start: Floats
    paths: Floats
    explained: Floats
    energies: Floats | None
    current_energy: float
    bounds: Floats

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        latent: Floats,
        atlas: Atlas,
        *,
        executed: int | None = None,
        max_columns: int = 8,
    ) -> FuturesPicture:
        """Return the picture.

        Args:
            predictions: The futures.
            latent: [T, D] of the image.
            atlas: The frames that latents are shown as.
            executed: The candidate nearest to the executed actions, if they are known.
            max_columns: The maximum number of steps that are shown.
        """
        roles: dict[Role, int] = {} if executed is None else {"executed": executed}
        ends = predictions.best_and_worst
        if ends is not None:
            roles |= {"best": ends[0], "worst": ends[1]}
        steps = predictions.columns(max_columns)
        return cls(
            stamp_ns=predictions.stamp_ns,
            ahead_s=predictions.ahead_s,
            steps=steps,
            candidates=tuple(
                Candidate(role, index, *atlas.nearest(predictions.latents[index][steps]))
                for role, index in (roles or {"first": 0}).items()
            ),
            start=atlas.project(latent),
            paths=atlas.project(predictions.latents),
            explained=atlas.embedding.explained,
            energies=predictions.energies,
            current_energy=predictions.current_energy,
            bounds=predictions.bounds,
        )

    def path(self, index: int) -> Floats:
        """Return the path [H + 1, 2] of a candidate on the map, from the image on."""
        found: Floats = np.vstack([self.start, self.paths[index]])
        return found


@dataclass(frozen=True)
class MomentPicture:
    """Futures from one frame of a run, next to what was observed.

    Attributes:
        at_s: The time of the frame since the start of the run.
        futures: The futures.
        frame: The index of the frame in the run.
        observed: [H], the frames observed later, one for each step.
        observed_path: [H + 1, 2], the observed frames on the map, from the image on.
        mismatch: Mean absolute difference between the actions of the candidate nearest to the executed ones
            and these.
        errors: [H], the errors of that candidate; None if the executed actions are not known.
        persistence: [H], the errors of predicting no change.
    """

    at_s: float
    futures: FuturesPicture
    frame: int
    observed: NDArray[np.intp]
    observed_path: Floats
    mismatch: float
    errors: Floats | None
    persistence: Floats

    @classmethod
    def of(cls, run: Run, moment: Moment, atlas: Atlas) -> MomentPicture:
        """Return the picture of a moment of a run."""
        predictions, latent = moment.predictions, run.latents[moment.frame]
        observed = np.asarray(run.latents[moment.observed], np.float32)
        errors = None
        if moment.executed is not None:
            errors = norms(np.asarray(predictions.latents[moment.executed], np.float32) - observed)
        futures = FuturesPicture.of(predictions, latent, atlas, executed=moment.executed)
        return cls(
            at_s=(predictions.stamp_ns - run.start_ns) / 1e9,
            futures=futures,
            frame=moment.frame,
            observed=moment.observed,
            observed_path=np.vstack([futures.start, atlas.project(run.latents[moment.observed])]),
            mismatch=moment.mismatch,
            errors=errors,
            persistence=norms(observed - np.asarray(latent, np.float32)),
        )


@dataclass(frozen=True)
class ErrorCurves:
    """Errors of the predictions of a run by step, and those of the last step over time.

    Attributes:
        ahead_s: [H], the time of each step.
        medians: [H], median errors.
        quantiles: [H], 90 % quantiles of the errors.
        bounds: [H], medians of the published bounds.
        persistence: [H], median errors of predicting no change.
        times_s: [n], times of the predictions.
        last_errors: [n], their errors at the last step.
        last_bounds: [n], the bounds of these.
    """

    ahead_s: NDArray[np.float64]
    medians: Floats
    quantiles: Floats
    bounds: Floats
    persistence: Floats
    times_s: NDArray[np.float64]
    last_errors: Floats
    last_bounds: Floats

    @classmethod
    def of(cls, run: Run) -> ErrorCurves | None:
        """Return the curves of a run, or None if it has no errors."""
        errors = run.errors
        if not len(errors.distances):
            return None
        return cls(
            ahead_s=run.facts.step_s * np.arange(1, errors.distances.shape[1] + 1),
            medians=np.median(errors.distances, axis=0),
            quantiles=np.quantile(errors.distances, 0.9, axis=0),
            bounds=np.median(errors.bounds, axis=0),
            persistence=np.median(errors.persistence, axis=0),
            times_s=(errors.stamps_ns - run.start_ns) / 1e9,
            last_errors=errors.distances[:, -1],
            last_bounds=errors.bounds[:, -1],
        )
