"""What the machine did during a measurement, and what it was set to."""

from jepa_runtime.profiling.machine.energy import IDLE_S, energy, tells_power
from jepa_runtime.profiling.machine.monitor import Monitor
from jepa_runtime.profiling.machine.probes import Probe
from jepa_runtime.profiling.machine.settings import settings
from jepa_runtime.profiling.machine.tegrastats import parse_tegrastats

__all__ = ["IDLE_S", "Monitor", "Probe", "energy", "parse_tegrastats", "settings", "tells_power"]
