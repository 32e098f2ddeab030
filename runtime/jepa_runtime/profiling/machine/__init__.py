"""What the machine did during a measurement, and what it was set to."""

from jepa_runtime.profiling.machine.energy import energy
from jepa_runtime.profiling.machine.monitor import Monitor
from jepa_runtime.profiling.machine.probes import Probe
from jepa_runtime.profiling.machine.settings import settings
from jepa_runtime.profiling.machine.tegrastats import parse_tegrastats

__all__ = ["Monitor", "Probe", "energy", "parse_tegrastats", "settings"]
