"""What the critic decides about candidate chunks, and what it learns from their outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Response(Enum):
    """What to do with the given chunk."""

    ACCEPT = "accept"
    """Execute it as given."""
    CHOOSE = "choose"
    """Execute another candidate instead."""
    SLOW_DOWN = "slow_down"
    """Execute a slower variant of it."""
    VETO = "veto"
    """Do not execute any candidate: stop."""


@dataclass(frozen=True)
class CriticVerdict:
    """The decision about K candidate chunks of h steps; the first candidate is the given one.

    Attributes:
        response: What to do.
        actions: float32 [h, A], the actions to execute; those of a veto are the smallest allowed ones (rest).
        index: Candidate that is executed; None after a veto.
        scale: Factor of its speed; 1: as the candidate is.
        reason: Why, in one sentence with the numbers.
        scores: Predicted scores [K]: change of the energy over the chunk, or highest hazard of its steps.
        upper_bounds: Bounds [K] that the observed scores stay below with the stated coverage; infinite during
            the warm-up.
        veto_threshold: Predicted score above which the given chunk is not executed; infinite during the
            warm-up.
        is_trial: Whether the chunk is executed regardless of its prediction, in the warm-up or at random.
        predicted: Predicted score of ``actions``; NaN after a veto.
        upper_bound: Its upper bound; infinite during the warm-up, NaN after a veto.
        energy_now: Energy of the newest latent to the goal; None with a hazard.
    """

    response: Response
    actions: NDArray[np.float32]
    index: int | None
    scale: float
    reason: str
    scores: NDArray[np.float64]
    upper_bounds: NDArray[np.float64]
    veto_threshold: float
    is_trial: bool
    predicted: float
    upper_bound: float
    energy_now: float | None


@dataclass(frozen=True)
class ChunkOutcome:
    """What was observed after a chunk was executed.

    Attributes:
        score: Observed score.
        is_harmless: Whether it is at most the limit.
        is_within_bound: Whether it is at most the upper bound that was stated; None in the warm-up, where
            none is stated.
    """

    score: float
    is_harmless: bool
    is_within_bound: bool | None
