"""benchmarks/clips.py: a small run has a row for stills, clips and a causal encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra export)")

from jepa_export.teachers.family import FAMILY
from tests.export.teachers.tiny import TINY
from tests.scripts import load

clips = load("clips")


def test_small_run_compares_the_three_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "NETWORK", TINY["vjepa2"].config)
    names, out = set(FAMILY), tmp_path / "clips.json"
    assert clips.main(["--frames", "4", "--rounds", "3", "--json", str(out)]) == 0
    assert set(FAMILY) == names, "the small teacher has no name any more"
    report = json.loads(out.read_text())
    rows = {row["time"]: row for row in report["rows"]}
    assert list(rows) == ["still", "clip", "causal"]
    assert [row["calls_per_s"] for row in rows.values()] == [30, 2, 2]
    assert rows["still"]["probe_accuracy"] == report["probe"]["chance"] == 0.25
    for row in rows.values():
        assert row["call_ms"]["n"] == 3 and 0 < row["call_ms"]["p50"] <= row["call_ms"]["p99"]
        assert 0.9999 < row["parity"]["min_cosine"] <= 1 + 1e-6 and row["parity"]["max_abs"] < 1e-4
    for model in ("small", clips.PUBLISHED):
        still, clip, causal = (row["multiply_adds"][model] for row in rows.values())
        assert still < causal < 1.1 * still < clip
