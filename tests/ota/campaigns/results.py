"""The figures of campaigns are stored as one part of ``benchmarks/results/robustness.json`` each."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jepa_runtime.telemetry.environment import cpu_info, package_versions

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "robustness.json"
_PACKAGES = ("tuf", "securesystemslib", "pydantic", "zstandard", "urllib3")


def keep(part: str, figures: dict[str, Any], path: Path = PATH) -> None:
    """Replace one part and keep the others."""
    content = json.loads(path.read_bytes()) if path.exists() else {}
    content[part] = {
        "on": f"{datetime.now(timezone.utc):%F}",
        "cpu": cpu_info(),
        "versions": package_versions() | {name: version(name) for name in _PACKAGES},
        **figures,
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
