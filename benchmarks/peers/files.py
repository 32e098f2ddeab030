"""Result files that depend on the processor: one for each model."""

from __future__ import annotations

import re
from pathlib import Path

from jepa_runtime.telemetry import cpu_info

RESULTS = Path(__file__).resolve().parents[1] / "results"
_NOISE = re.compile(r"\((?:r|tm)\)|\b(?:processor|cpu)\b", re.IGNORECASE)


def slug(model: str) -> str:
    """Return the name of a processor as part of a file name: ``intel-xeon-family-6-model-207``."""
    return "-".join(re.findall(r"[a-z0-9]+", _NOISE.sub(" ", model).lower()))


def result_file(name: str) -> Path:
    """Return the result file of a benchmark on this processor."""
    return RESULTS / f"{name}.{slug(str(cpu_info()['model']))}.json"
