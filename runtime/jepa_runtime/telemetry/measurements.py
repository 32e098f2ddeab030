"""Measured quantities as data: readings of sensors, energy, and the machine they come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

UNKNOWN = "unknown"


# No measurement exceeds it, and what is computed from numbers below it is finite.
MOST = 1e12
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Duration = Annotated[float, Field(ge=0, le=MOST)]
Milliseconds = Annotated[list[Number], Field(max_length=10_000_000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Environment(_Model):
    """What it was measured on. ``settings``: what the system was set to (governor, power mode, …).

    In an imported profile ``cpu`` and ``architecture`` may be :data:`UNKNOWN`, and ``cores`` 0: not told.
    """

    cpu: str
    cores: int
    architecture: str
    versions: dict[str, str]
    settings: dict[str, str] = {}


class Reading(_Model):
    """One quantity of the machine over a run, or why there is none.

    Attributes:
        name: for people and for comparisons, such as ``cpu0 busy``, ``package power``, ``rss``.
        unit: %, cores, MHz, °C, MB, W, J or count.
        times_s, values: of equal length; empty if absent.
        absent: why there are none; None if there are.
    """

    name: str
    unit: str
    times_s: Milliseconds = []
    values: Milliseconds = []
    absent: str | None = None


class Energy(_Model):
    """Energy of one frame: what the machine took during the run above what it took idle, over the frames."""

    per_frame_j: float | None
    idle_w: float | None
    busy_w: float | None
    absent: str | None = None
