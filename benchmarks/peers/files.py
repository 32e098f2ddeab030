"""Where results are written that depend on the processor: a file for each kind."""

from __future__ import annotations

import re
from pathlib import Path

from jepa_runtime.telemetry import cpu_info

RESULTS = Path(__file__).resolve().parents[1] / "results"
_SAYS_NOTHING = re.compile(r"\((?:r|tm)\)|\b(?:processor|cpu)\b", re.IGNORECASE)


def kind_of(model: str) -> str:
    """The name of a processor as part of a file's name: ``intel-xeon-family-6-model-207``."""
    return "-".join(re.findall(r"[a-z0-9]+", _SAYS_NOTHING.sub(" ", model).lower()))


def result_file(name: str) -> Path:
    """The file of a benchmark's results on this processor."""
    return RESULTS / f"{name}.{kind_of(str(cpu_info()['model']))}.json"
