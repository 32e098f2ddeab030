"""One complete plan: search iterations until a count or a time budget is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_runtime.planning.action_limits import Floats32
from jepa_runtime.planning.energies import ReductionName, plan_costs
from jepa_runtime.planning.search import Search

# Candidates [K, H, A] -> their energies [K, H], or their costs [K]: all of them in one call.
Rollout = Callable[[Floats32], Floats32]


@dataclass(frozen=True)
class Plan:
    """Result of a plan.

    Attributes:
        mean: Mean of the search [H, A], which published planners execute.
        best: Candidate [H, A] of lowest cost; the mean if no cost was finite.
        cost: Cost of the best; infinite if no cost was finite.
        iterations: Number of iterations.
    """

    mean: Floats32
    best: Floats32
    cost: float
    iterations: int


class Planner:
    """Runs a search with a rollout.

    Args:
        search: Carries the plan from one call to the next; call ``search.shift`` after executing actions.
        iterations: Maximum number of iterations.
        budget_s: Time budget: an iteration does not begin if it would end later, assuming the longest
            duration so far; the first always begins. None: no budget.
        reduction: How energies become costs, see :func:`plan_costs`.
        discount: Discount of the reduction.
        clock: Seconds.

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
        """Continue the search and return the plan.

        Args:
            rollout: Returns energies [K, H] or costs [K] of candidates [K, H, A].

        Raises:
            ValueError: ``rollout`` does not return one row of energies, or one cost, for each candidate.
        """
        ends = self._clock()
        until, longest_s = ends + self._budget_s, 0.0
        best, lowest, done = self.search.mean, math.inf, 0
        while done < self._iterations and (done == 0 or ends + longest_s <= until):
            began = ends
            candidates = self.search.ask()
            costs = rollout(candidates)
            if costs.ndim == 2:
                costs = plan_costs(costs, self._reduction, discount=self._discount)
            self.search.tell(costs)
            done += 1
            finite = np.where(np.isfinite(costs), costs, np.inf)
            index = int(np.argmin(finite))
            if finite[index] < lowest:
                best, lowest = candidates[index], float(finite[index])
            ends = self._clock()
            longest_s = max(longest_s, ends - began)
        best = best if lowest < math.inf else self.search.mean
        return Plan(self.search.mean.copy(), best.copy(), lowest, done)
