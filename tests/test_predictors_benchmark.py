"""benchmarks/predictors.py: a small run has a row for each bundle, on the same episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import load

predictors = load("predictors")


def test_same_bundle_twice_has_the_same_successes(two_rooms_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictors.json"
    options = ["--seed", "10", "--episodes", "2", "--iterations", "1", "--repeats", "3", "--json", str(out)]
    assert predictors.main(["--bundle", str(two_rooms_bundle), str(two_rooms_bundle), *options]) == 0
    report = json.loads(out.read_text())
    first, second = report["rows"]
    for field in ("model", "sha256", "successes", "mean_steps", "error_m"):
        assert first[field] == second[field]
    assert first["episodes"] == 2 and first["rollout_ms"]["n"] == 3 and first["decision_ms"]["n"] > 0
    assert len(first["error_m"]) == report["horizon"] and first["multiply_adds"] > 0


def test_bundle_with_another_encoder_is_refused(
    two_rooms_bundle: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predictors.main(["--bundle", str(two_rooms_bundle), str(toy_bundle)]) == 2
    assert f"{toy_bundle}: has another encoder" in capsys.readouterr().err


def test_missing_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predictors.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
