"""The cache of a causal encoder: what it computed of the previous steps of one stream.

The graph of such an encoder (``manifest.io.clip.cache_shape``) has no state. It reads the entries of the
cache in any order, with the position of each in time, and returns the entry of the newest step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import ClipSpec
from jepa_runtime.util.finite import are_finite

_ABSENT = -1.0
# The step of an entry that was never stored, which no clip reaches.
_NEVER = -(1 << 32)


class EncoderCache:
    """The entries of one stream; the oldest is replaced by the newest.

    An entry counts only for the steps of its clip: what was computed of earlier steps, or of later ones after
    the numbers went backwards, is absent.

    Attributes:
        entries: float32 [steps of a clip - 1, ...], in any order.
        revision: Changes with each stored entry.

    Args:
        clip: The clips of the model.

    Raises:
        ValueError: The encoder of the model has no cache.
    """

    def __init__(self, clip: ClipSpec) -> None:
        if clip.cache_shape is None:
            raise ValueError("the encoder of this model has no cache: it reads whole clips")
        self.entries: NDArray[np.float32] = np.zeros((clip.cached_steps, *clip.cache_shape), np.float32)
        self.revision = 0
        self._steps = [_NEVER] * clip.cached_steps

    def positions(self, step: int) -> NDArray[np.float32]:
        """Return the position in time of each entry at ``step``, and last that of the step itself.

        The oldest entry of the clip has position 0; -1 stands for an absent entry.
        """
        known = np.array(self._steps, np.int64)
        present = (known < step) & (step - known <= len(known))
        oldest = min(known[present], default=step)
        return np.array([*np.where(present, known - oldest, _ABSENT), step - oldest], np.float32)

    def store(self, step: int, entry: NDArray[np.float32]) -> int | None:
        """Store the entry of ``step``; return its index, or None if it is not finite and therefore absent.

        The graph multiplies also absent entries, by 0, so none may be NaN.
        """
        if not are_finite(entry):
            return None
        # Absent entries have the lowest position.
        index = int(self.positions(step)[:-1].argmin())
        self.entries[index], self._steps[index] = entry, step
        self.revision += 1
        return index
