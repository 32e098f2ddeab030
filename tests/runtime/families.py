"""A family of toy bundles: the larger one has the longer history, the smaller one more multiply-adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jepa_runtime.bundle import Bundle, seal
from tests.bundles import make_bundle

ROLES = ("encoder", "predictor", "relative_pose")


def make_member(folder: Path, *, history_size: int = 1, trained: bool = True) -> Path:
    """Write a toy bundle that reads poses."""
    make_bundle(folder, history_size=history_size, energy=False, relative_pose=True, trained=trained)
    return folder


def make_family(folder: Path) -> tuple[Path, Path]:
    """Write two bundles into ``folder`` and return their folders, the one with the smaller files first."""
    folder.mkdir()
    return make_member(folder / "one"), make_member(folder / "four", history_size=4)


def report(bundle: Path, content: Any) -> None:
    """Replace the report of a bundle."""
    manifest = Bundle.open(bundle).manifest
    (bundle / "report.json").write_text(json.dumps(content), encoding="utf-8")
    seal(bundle, manifest)


def report_multiply_adds(bundle: Path, count: int) -> None:
    """Write a report with ``count`` multiply-adds for each graph."""
    report(bundle, {"multiply_adds": dict.fromkeys(ROLES, count)})
