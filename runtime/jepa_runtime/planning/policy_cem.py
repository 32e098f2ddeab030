"""CEM that starts from the action sequences of a policy.

Sources: POPLIN (Wang and Ba, "Exploring Model-based Planning with Policy Networks", arXiv:1906.08649), where
the distribution over actions starts from the policy; TD-MPC (Hansen et al., arXiv:2203.04955), where the
policy's sequences are candidates of each iteration. The previous plan remains a candidate too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jepa_runtime.planning.action_limits import Floats32
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.search_method import SearchMethod


@dataclass(frozen=True, kw_only=True)
class PolicyCEMConfig(CEMConfig):
    """Settings of the cross-entropy method with a policy.

    Attributes:
        policy_fraction: Largest proportion of candidates that are the policy's.
        policy_std: Standard deviation of the candidates around the policy's first sequence, which are drawn
            once in each step of the plan, as a fraction of half the action range.
    """

    METHOD: ClassVar[str] = "policy_cem"

    policy_fraction: float = 0.25
    policy_std: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.policy_fraction < 1:
            raise ValueError(f"policy_fraction must be above 0 and below 1, got {self.policy_fraction}")
        if not self.policy_std >= 0:
            raise ValueError(f"policy_std must be at least 0, got {self.policy_std}")


class PolicyCEM(CEM):
    """The cross-entropy method with candidates of a policy; without proposals it is :class:`CEM`."""

    config: PolicyCEMConfig

    def reset(self) -> None:
        super().reset()
        self._proposals: Floats32 | None = None
        # Whether no candidates were drawn around a proposal in this step.
        self._begins_step = True

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        super().shift(steps, executed=executed)
        self._begins_step = True

    def set_proposals(self, proposals: Floats32 | None) -> None:
        """Draw candidates around the first of the proposals once in each step, from now on until the next.

        All of them are candidates in every iteration. A sequence shorter than the horizon holds its last
        action.

        Raises:
            ValueError: They are not such sequences.
        """
        self._proposals = None
        if proposals is None:
            return
        steps, width = self.mean.shape
        if proposals.ndim != 3 or proposals.shape[2] != width or not proposals.size:
            raise ValueError(f"proposals must be [n, h, {width}], got {list(proposals.shape)}")
        held = np.repeat(proposals[:, -1:], max(steps - proposals.shape[1], 0), axis=1)
        self._proposals = np.concatenate([proposals, held], axis=1)[:, :steps].astype(np.float32)

    def ask(self) -> Floats32:
        if self._proposals is None:
            return super().ask()
        plan = self.mean
        if self._begins_step:
            self.mean = self._proposals[0]
            self._std = np.full(plan.shape, self.config.policy_std, np.float32) * self._scale
        candidates = super().ask()
        # The plan stays what is executed until costs are known.
        self.mean, self._begins_step = plan, False
        most = max(round(self.config.policy_fraction * len(candidates)), 1)
        proposals = self._proposals[: min(most, len(candidates) - 1)]
        candidates[0] = self.limits.clip(plan, self.executed)
        if len(proposals):
            candidates[-len(proposals) :] = self.limits.clip(proposals, self.executed)
        return candidates


SEARCH = SearchMethod(
    name=PolicyCEMConfig.METHOD,
    summary="as cem, from the action sequences of a policy",
    source="POPLIN (arXiv:1906.08649), TD-MPC (arXiv:2203.04955)",
    config=PolicyCEMConfig,
    create=lambda config, context: PolicyCEM(config, context.limits, seed=context.seed),
    requires=frozenset({"proposals"}),
)
