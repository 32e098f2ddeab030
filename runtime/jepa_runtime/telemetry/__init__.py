"""Sensor readings of the machine during a measurement, and the system settings that affect its speed."""

from jepa_runtime.telemetry.energy import IDLE_S, energy, measures_power
from jepa_runtime.telemetry.monitor import Monitor

__all__ = ["IDLE_S", "Monitor", "energy", "measures_power"]
