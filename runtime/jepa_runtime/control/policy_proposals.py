"""The newest action sequences of a policy that runs in another process, as proposals for a search.

The first action of a sequence is for the time at which it arrives; as time passes, actions are dropped from
its front. A sequence that is too old, or has no action left, is no proposal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


class PolicyProposals:
    """Holds the newest action sequences of a policy.

    Args:
        action_size: A, components of an action.
        step_s: Duration of a model step.
        timeout_s: Age at which sequences are dropped.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, action_size: int, step_s: float, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._size, self._step_s, self._timeout_s = action_size, step_s, timeout_s
        self._clock = clock
        self._newest: NDArray[np.float32] | None = None
        self._arrived_s = clock()

    @property
    def age_s(self) -> float:
        """Time since the newest sequences arrived, or since the start."""
        return self._clock() - self._arrived_s

    def offer(self, actions: NDArray[np.floating]) -> None:
        """Replace the sequences by ``actions`` [n, h, A], the preferred first.

        Raises:
            ValueError: They have another shape, or are not finite. Earlier ones are retained.
        """
        if actions.ndim != 3 or actions.shape[2] != self._size or not actions.size:
            raise ValueError(
                f"actions must be [n, h, {self._size}], with at least one sequence and one step, got "
                f"{list(actions.shape)}"
            )
        # Finite double-precision numbers may overflow in single precision.
        with np.errstate(over="ignore"):
            sequences = np.array(actions, np.float32)
        if not np.isfinite(sequences).all():
            raise ValueError("actions must be finite, got NaN or infinity")
        self._newest, self._arrived_s = sequences, self._clock()

    def remaining(self) -> NDArray[np.float32] | None:
        """Return the actions [n, h, A] from now on; None: there are none."""
        age_s = self.age_s
        if self._newest is None or age_s > self._timeout_s:
            return None
        ahead = self._newest[:, int(age_s / self._step_s) :]
        return ahead if ahead.size else None
