"""Detection of collapsed latents, which no longer distinguish frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_export.errors import JepaExportError

# Below either, latents hardly distinguish frames: their tokens have unit scale, and a single direction has
# rank 1.
MIN_RANK = 1.5
MIN_STD = 0.01


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of a set of latents.

    Attributes:
        rank: Effective number of directions that they span.
        std: Median over dimensions of their standard deviation.
    """

    rank: float
    std: float

    @property
    def collapsed(self) -> bool:
        """Return whether the latents hardly distinguish frames."""
        return not (self.rank >= MIN_RANK and self.std >= MIN_STD)

    def describe(self) -> str:
        """Return the statistics, and the limits of :attr:`collapsed`, as text."""
        return (
            f"effective rank {self.rank:.2f} (minimum {MIN_RANK:g}), standard deviation {self.std:.4f} "
            f"(minimum {MIN_STD:g})"
        )


def latent_statistics(latents: Tensor) -> LatentStatistics:
    """Return the statistics of the latents of N frames [N, ...].

    The rank is RankMe (Garrido et al. 2023): the exponential of the entropy of the singular values divided by
    their sum. Latents are centered first, as their common mean distinguishes no frames.
    """
    flat = latents.detach().flatten(1).float().cpu()
    if not flat.isfinite().all():
        return LatentStatistics(rank=math.nan, std=math.nan)
    centered = flat - flat.mean(0)
    values = torch.linalg.svdvals(centered)
    proportions = values / values.sum().clamp_min(1e-12) + 1e-7
    return LatentStatistics(
        rank=float(torch.exp(-(proportions * proportions.log()).sum())),
        std=float(flat.std(0, correction=0).median()),
    )


class CollapseAlarm:
    """Counter of consecutive collapses.

    Args:
        limit: Count at which training ends; None: never.
        count: Consecutive collapses so far.
    """

    def __init__(self, limit: int | None, count: int = 0) -> None:
        self.limit, self.count = limit, count

    def update(self, found: LatentStatistics, step: int) -> str | None:
        """Return a warning if the latents collapsed at ``step``, else None.

        Raises:
            JepaExportError: The limit of consecutive collapses is reached.
        """
        if not found.collapsed:
            self.count = 0
            return None
        self.count += 1
        message = f"step {step}: the latents of held-out frames collapsed: {found.describe()}"
        if self.limit is not None and self.count >= self.limit:
            raise JepaExportError(
                f"{message}, {self.count} times in a row; lower the learning rate, use more varied frames, "
                "or "
                "continue regardless with --allow-collapse",
                code="training.collapse",
            )
        return message
