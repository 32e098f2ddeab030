"""Shuffled batches of clips.

The clips in batch i follow from the seed and i alone: a run resumed at step i gets exactly the batches that
it would have had, and a checkpoint only stores i.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.clip_windows import Windows
from jepa_export.errors import JepaExportError
from jepa_export.training.prefetch import in_order
from jepa_runtime.imaging import Image
from jepa_runtime.sources import Floats, Stamps


@dataclass(frozen=True)
class Batch:
    """B clips: frames uint8 [B, T, h, w, 3], stamps_ns int64 [B, T], actions float32 [B, T, A] or None."""

    frames: Image
    stamps_ns: Stamps
    actions: Floats | None


class Batches:
    """Endless batches: each epoch goes through all clips in its own order and drops an incomplete last batch.

    Args:
        windows: The clips.
        size: Clips per batch, B.
        seed: Seed of the order.
        workers: Threads that read ahead.

    Raises:
        JepaExportError: There are fewer clips than that.
    """

    def __init__(self, windows: Windows, *, size: int, seed: int, workers: int = 2) -> None:
        if not 1 <= size <= len(windows):
            raise JepaExportError(
                f"a batch of {size} clips cannot be drawn from {len(windows)} clips; use a smaller batch or "
                "more "
                "data",
                code="data.too_few_clips",
            )
        self.windows, self.size = windows, size
        self.per_epoch = len(windows) // size
        self._workers = workers
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(windows))
        )

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the indices [B] of the clips in batch ``step`` (from 0)."""
        epoch, place = divmod(step, self.per_epoch)
        chosen: NDArray[np.int64] = self._order(epoch)[place * self.size : (place + 1) * self.size]
        return chosen

    def batch(self, step: int) -> Batch:
        """Read batch ``step``.

        Raises:
            JepaExportError: A frame cannot be read.
        """
        clips = [self.windows[int(index)] for index in self.indices(step)]
        actions = [clip.actions for clip in clips if clip.actions is not None]
        return Batch(
            np.stack([clip.frames for clip in clips]),
            np.stack([clip.stamps_ns for clip in clips]),
            np.stack(actions) if actions else None,
        )

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield batches ``start`` … ``stop - 1`` in order; threads read a few of them ahead.

        Raises:
            JepaExportError: A frame cannot be read.
        """
        with ThreadPoolExecutor(self._workers, "jepa-clips") as pool:
            yield from in_order(lambda step: pool.submit(self.batch, step), start, stop)
