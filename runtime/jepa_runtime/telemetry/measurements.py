"""Data models of measurements: sensor readings, energy, and the machine they were taken on."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

UNKNOWN = "unknown"

# No measurement exceeds it, and arithmetic on numbers below it stays finite.
MAX_VALUE = 1e12
Number = Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)]
Duration = Annotated[float, Field(ge=0, le=MAX_VALUE)]
Milliseconds = Annotated[list[Number], Field(max_length=10_000_000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Environment(_Model):
    """The machine that a measurement ran on.

    In an imported profile ``cpu`` and ``architecture`` may be :data:`UNKNOWN`, and ``cores`` 0.

    Attributes:
        cpu: Name and model of the CPU.
        cores: The number of cores that the process may use.
        architecture: As ``uname -m`` prints it.
        versions: Versions of the system and of packages.
        settings: System settings that affect speed (governor, power mode, …).
    """

    cpu: str
    cores: int
    architecture: str
    versions: dict[str, str]
    settings: dict[str, str] = {}


class Reading(_Model):
    """The values of one quantity over a run, or the reason why it is absent.

    Attributes:
        name: Identifies the quantity in comparisons, such as ``cpu0 busy``, ``package power``, ``rss``.
        unit: %, cores, MHz, °C, MB, W, J or count.
        times_s: The time of each value; empty if absent.
        values: The values; empty if absent.
        absent: The reason why there are no values, or None.
    """

    name: str
    unit: str
    times_s: Milliseconds = []
    values: Milliseconds = []
    absent: str | None = None


class Energy(_Model):
    """Energy per frame in J, with the mean power of the idle and of the busy machine in W.

    Attributes:
        per_frame_j: Energy per frame above that of the idle machine, or None.
        idle_w: Mean power of the idle machine, or None.
        busy_w: Mean power during the run, or None.
        absent: The reason why ``per_frame_j`` is None.
    """

    per_frame_j: float | None
    idle_w: float | None
    busy_w: float | None
    absent: str | None = None
