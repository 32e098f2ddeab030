"""What the machine did during a measurement, and what it was set to."""

from jepa_runtime.telemetry.energy import IDLE_S, energy, tells_power
from jepa_runtime.telemetry.monitor import Monitor

__all__ = ["IDLE_S", "Monitor", "energy", "tells_power"]
