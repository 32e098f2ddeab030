"""The alarm for latents that stop telling frames apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_export.errors import JepaExportError

# Below either, frames are hardly told apart: a latent's tokens have unit scale, and one direction is rank 1.
MIN_RANK = 1.5
MIN_STD = 0.01


@dataclass(frozen=True)
class Variety:
    """Of latents: ``rank``, over how many directions they spread; ``std``, the median over dimensions of
    their standard deviation."""

    rank: float
    std: float

    @property
    def collapsed(self) -> bool:
        return not (self.rank >= MIN_RANK and self.std >= MIN_STD)


def variety(latents: Tensor) -> Variety:
    """Of latents of N frames [N, ...].

    The rank is RankMe (Garrido et al. 2023): the exponential of the entropy of the singular values, divided
    by their sum. Latents are centred first, as the mean that all frames have in common tells none apart."""
    flat = latents.detach().flatten(1).float().cpu()
    if not flat.isfinite().all():
        return Variety(rank=math.nan, std=math.nan)
    centred = flat - flat.mean(0)
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return Variety(
        rank=float(torch.exp(-(shares * shares.log()).sum())), std=float(flat.std(0, correction=0).median())
    )


class Alarm:
    """Counts collapses in a row. Pure: what is seen is passed in, what is to be said comes back.

    Args:
        limit: at which count training ends; None: never.
        count: of those before.
    """

    def __init__(self, limit: int | None, count: int = 0) -> None:
        self.limit, self.count = limit, count

    def see(self, found: Variety, step: int) -> str | None:
        """What to warn of, if anything.

        Raises:
            JepaExportError: that often in a row.
        """
        if not found.collapsed:
            self.count = 0
            return None
        self.count += 1
        what = (
            f"step {step}: the latents of held-out frames collapse: effective rank {found.rank:.2f} (at "
            f"least {MIN_RANK:g}), standard deviation {found.std:.4f} (at least {MIN_STD:g})"
        )
        if self.limit is not None and self.count >= self.limit:
            raise JepaExportError(
                f"{what}, {self.count} times in a row: lower the learning rate, give frames that differ "
                "more, or go on all the same with --allow-collapse"
            )
        return what
