"""Sensor readings of the machine during a measurement, and the system settings that affect its speed.

Example::

    import time
    from jepa_runtime.telemetry import Monitor, cpu_info

    with Monitor(period_s=0.1) as monitor:
        time.sleep(0.3)
    for reading in monitor.readings():
        print(reading.name, reading.unit, reading.absent or reading.values)
    print(cpu_info())
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.telemetry.diagnostics import (
        Health,
        Level,
        Limits,
        Verdict,
        assess,
        with_causes,
        with_warnings,
    )
    from jepa_runtime.telemetry.energy import IDLE_S, measure_energy, measures_power
    from jepa_runtime.telemetry.environment import cpu_info, package_versions, peak_rss_mb, read_environment
    from jepa_runtime.telemetry.measurements import Energy, Environment, Reading
    from jepa_runtime.telemetry.monitor import Monitor
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "diagnostics": ["Health", "Level", "Limits", "Verdict", "assess", "with_causes", "with_warnings"],
            "energy": ["IDLE_S", "measure_energy", "measures_power"],
            "environment": ["cpu_info", "package_versions", "peak_rss_mb", "read_environment"],
            "measurements": ["Energy", "Environment", "Reading"],
            "monitor": ["Monitor"],
        },
    )

__all__ = [
    "IDLE_S",
    "Energy",
    "Environment",
    "Health",
    "Level",
    "Limits",
    "Monitor",
    "Reading",
    "Verdict",
    "assess",
    "cpu_info",
    "measure_energy",
    "measures_power",
    "package_versions",
    "peak_rss_mb",
    "read_environment",
    "with_causes",
    "with_warnings",
]
