"""One plan: ask, predict, tell, as often as the time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_runtime.planning.action_limits import ActionLimits, Floats32
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.energies import ReductionName, plan_costs
from jepa_runtime.planning.mppi import MPPI, MPPIConfig
from jepa_runtime.planning.search import Search

# Candidates [K, H, A] -> their energies [K, H], or their costs [K]: all of them in one call.
Rollout = Callable[[Floats32], Floats32]


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        mean: [H, A], what the search holds now: what planners of the field execute.
        best: [H, A], the cheapest candidate that was predicted (the mean, where no cost was a number).
        cost: of the best; infinite, where no cost was a number.
        iterations: how many were made.
    """

    mean: Floats32
    best: Floats32
    cost: float
    iterations: int


class Planner:
    """Runs a search against a rollout.

    Args:
        search: carries the plan from one call to the next; ``search.shift`` when actions were executed.
        iterations: at most.
        budget_s: no iteration begins that would end later, if it took as long as the longest of the plan so
            far; the first always does. None: no budget.
        reduction, discount: what makes costs of energies, see :func:`plan_costs`.
        clock: seconds.

    Raises:
        ValueError: ``iterations`` or ``budget_s`` is out of range.
    """

    def __init__(
        self,
        search: Search[Any],
        *,
        iterations: int,
        budget_s: float | None = None,
        reduction: ReductionName = "sum",
        discount: float = 0.99,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if budget_s is not None and not budget_s > 0:
            raise ValueError(f"budget_s must be above 0, got {budget_s}")
        self.search = search
        self._iterations, self._budget_s = iterations, math.inf if budget_s is None else budget_s
        self._reduction, self._discount = reduction, discount
        self._clock = clock

    def plan(self, rollout: Rollout) -> Plan:
        """Search on from where the search stands.

        Raises:
            ValueError: ``rollout`` does not give one row of energies, or one cost, for each candidate.
        """
        ends = self._clock()
        until, longest_s = ends + self._budget_s, 0.0
        best, least, done = self.search.mean, math.inf, 0
        while done < self._iterations and (done == 0 or ends + longest_s <= until):
            began = ends
            candidates = self.search.ask()
            costs = rollout(candidates)
            if costs.ndim == 2:
                costs = plan_costs(costs, self._reduction, discount=self._discount)
            self.search.tell(costs)
            done += 1
            known = np.where(np.isfinite(costs), costs, np.inf)
            cheapest = int(np.argmin(known))
            if known[cheapest] < least:
                best, least = candidates[cheapest], float(known[cheapest])
            ends = self._clock()
            longest_s = max(longest_s, ends - began)
        best = best if least < math.inf else self.search.mean
        return Plan(self.search.mean.copy(), best.copy(), least, done)


def create_search(config: CEMConfig | MPPIConfig, limits: ActionLimits, *, seed: int) -> CEM | MPPI:
    """Return the search with these settings."""
    if isinstance(config, MPPIConfig):
        return MPPI(config, limits, seed=seed)
    return CEM(config, limits, seed=seed)
