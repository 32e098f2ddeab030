"""The gate: decides whether a candidate may become the active model.

1. ``static_checks`` compares what the release and its bundle declare with the robot.
2. ``probe`` opens and times the bundle in a separate process that may crash.
3. ``shadow_test`` runs the candidate next to the active model on the same frames, and compares the
   prediction errors of both (``sequential_test``).
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.gate.latency_budget import compare, cost_of, is_within
    from jepa_runtime.ota.gate.probe_process import time_frames
    from jepa_runtime.ota.gate.sequential_test import GOOD, NOT_SHOWN, WORSE, PairedTest, Verdict
    from jepa_runtime.ota.gate.shadow_test import ShadowReport, ShadowTest
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "latency_budget": ["compare", "cost_of", "is_within"],
            "probe_process": ["time_frames"],
            "sequential_test": ["GOOD", "NOT_SHOWN", "WORSE", "PairedTest", "Verdict"],
            "shadow_test": ["ShadowReport", "ShadowTest"],
        },
    )

__all__ = [
    "GOOD",
    "NOT_SHOWN",
    "WORSE",
    "PairedTest",
    "ShadowReport",
    "ShadowTest",
    "Verdict",
    "compare",
    "cost_of",
    "is_within",
    "time_frames",
]
