"""One thing that was asked, and what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What was asked and what was found, ``of`` how many samples; ``limit`` None: for information."""

    check: str
    what: str
    value: float
    limit: float | None
    unit: str
    of: str

    @property
    def met(self) -> bool:
        """Whether the limit was kept."""
        return self.limit is None or self.value <= self.limit
