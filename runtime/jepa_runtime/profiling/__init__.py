"""Latency profiles: load generation, statistics, comparison, import and export.

``jepa-runtime profile`` writes profiles.

Example::

    from pathlib import Path
    from jepa_runtime.profiling import describe, read_profile

    profile = read_profile(Path("profile.json"))
    print(describe(profile.run).latency.p99)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.profiling.load_generator import LoadGenerator, Workload
    from jepa_runtime.profiling.profile import (
        Profile,
        Run,
        Subject,
        Sweep,
        copy_absent_reason,
        read_profile,
        stage_order,
        write_profile,
    )
    from jepa_runtime.profiling.run_statistics import (
        Distribution,
        Quantile,
        RunStatistics,
        describe,
        device_times,
        distribution,
        late_frames,
        lost_frames,
        responses,
        scheduled_frames,
        stage_times,
    )
    from jepa_runtime.profiling.sweep import run_sweep
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "load_generator": ["LoadGenerator", "Workload"],
            "profile": [
                "Profile",
                "Run",
                "Subject",
                "Sweep",
                "copy_absent_reason",
                "read_profile",
                "stage_order",
                "write_profile",
            ],
            "run_statistics": [
                "Distribution",
                "Quantile",
                "RunStatistics",
                "describe",
                "device_times",
                "distribution",
                "late_frames",
                "lost_frames",
                "responses",
                "scheduled_frames",
                "stage_times",
            ],
            "sweep": ["run_sweep"],
        },
    )

__all__ = [
    "Distribution",
    "LoadGenerator",
    "Profile",
    "Quantile",
    "Run",
    "RunStatistics",
    "Subject",
    "Sweep",
    "Workload",
    "copy_absent_reason",
    "describe",
    "device_times",
    "distribution",
    "late_frames",
    "lost_frames",
    "read_profile",
    "responses",
    "run_sweep",
    "scheduled_frames",
    "stage_order",
    "stage_times",
    "write_profile",
]
