"""Energies of predicted futures to a goal, and the cost of a candidate.

An energy compares latents [..., T, D] with a goal [T, D]; the caller encodes a goal image. A bundle may have
a learned energy (:meth:`jepa_runtime.model.world_model.WorldModel.energy`). A reduction turns the H energies
of a candidate into one cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
EnergyName = Literal["l1", "l2", "mean_squared", "cosine"]
"""Names of the energies, see :data:`ENERGIES`."""
ReductionName = Literal["last_step", "sum", "discounted", "min"]


def l1(latents: Floats32, goal: Floats32) -> Floats32:
    """Return the mean absolute difference over tokens and dimensions [...].

    Source: V-JEPA 2-AC (Assran et al. 2025), ``l1`` of its notebooks/utils/mpc_utils.py.
    """
    difference = latents - goal
    energies: Floats32 = np.abs(difference, out=difference).mean(axis=(-2, -1))
    return energies


def l2(latents: Floats32, goal: Floats32) -> Floats32:
    """Return the Euclidean distance over all tokens and dimensions [...]."""
    energies: Floats32 = np.sqrt(_sum_of_squares(latents - goal))
    return energies


def mean_squared(latents: Floats32, goal: Floats32) -> Floats32:
    """Return the mean squared difference over tokens and dimensions [...].

    Source: LeWM (Maes et al. 2026), ``criterion`` of its jepa.py, which sums instead; for one latent size the
    order is the same. eb_jepa, ``ReprTargetDistMPCObjective`` of its eb_jepa/planning.py.
    """
    energies: Floats32 = _sum_of_squares(latents - goal) / np.float32(goal.size)
    return energies


def cosine(latents: Floats32, goal: Floats32) -> Floats32:
    """Return one minus the cosine between each token and the goal's, mean over tokens [...]: 0 … 2.

    A token of length zero counts as orthogonal.
    """
    products = np.einsum("...td,td->...t", latents, goal)
    lengths = np.linalg.norm(latents, axis=-1) * np.linalg.norm(goal, axis=-1)
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    energies: Floats32 = 1 - cosines.mean(axis=-1)
    return energies


ENERGIES: dict[EnergyName, Callable[[Floats32, Floats32], Floats32]] = {
    "l1": l1,
    "l2": l2,
    "mean_squared": mean_squared,
    "cosine": cosine,
}
"""All energies by name. Each maps latents [..., T, D] and a goal [T, D] to [...]."""


def plan_costs(energies: Floats32, reduction: ReductionName = "sum", *, discount: float = 0.99) -> Floats32:
    """Return the costs [K] of candidates.

    Args:
        energies: Energies [K, H] of the candidates.
        reduction: ``last_step``: the last energy only (V-JEPA 2-AC; LeWM). ``sum``: prefers to arrive early
            and to stay (eb_jepa with ``sum_all_diffs``; the default). ``discounted``: the sum of ``discount
            ** h`` times the energy of step h = 0 … H-1, for models with larger errors further ahead. ``min``:
            the lowest energy, even if the candidate passes by.
        discount: Discount of ``discounted``.

    Raises:
        ValueError: There is no such reduction.
    """
    costs: Floats32
    match reduction:
        case "last_step":
            costs = energies[:, -1]
        case "sum":
            costs = energies.sum(axis=1, dtype=np.float32)
        case "discounted":
            costs = energies @ np.power(np.float32(discount), np.arange(energies.shape[1], dtype=np.float32))
        case "min":
            costs = energies.min(axis=1)
        case _:
            raise ValueError(f"reduction must be last_step, sum, discounted or min, got {reduction!r}")
    return costs


def _sum_of_squares(difference: Floats32) -> Floats32:
    squares: Floats32 = np.einsum("...td,...td->...", difference, difference)
    return squares
