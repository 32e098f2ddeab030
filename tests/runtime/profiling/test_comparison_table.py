"""The table of a comparison and its remarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jepa_runtime.cli import main
from jepa_runtime.profiling.comparison import Change, Comparison
from jepa_runtime.profiling.comparison_table import Entry, cells, remarks
from jepa_runtime.profiling.profile import Parity, Subject, write_profile
from jepa_runtime.profiling.run_statistics import Quantile, describe
from jepa_runtime.util.statistics import format_ms
from tests.runtime.profiles import make_profile, with_subject


def test_markdown_has_one_row_per_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    escaped = with_subject(make_profile(seed=7, scale=1.2), model_id="a|b <i>", sha256="1" * 64)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for profile, path in zip((make_profile(), escaped), files, strict=True):
        write_profile(profile, path)
    assert main(["compare", *map(str, files), "--markdown", "-"]) == 3
    lines = capsys.readouterr().out.splitlines()
    header, rule, first, second = lines[:4]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[:5] == ["file", "model", "engine", "precision", "n"]
    assert columns[5:11] == ["p50", "p90", "p95", "p99", "p99.9", "max"]
    assert columns[11:] == ["misses", "drops", "parity", "change", "verdict"]
    assert rule.count("|") == header.count("|") == first.count("|") == second.replace("\\|", "").count("|")
    marks = [mark.strip() for mark in rule.strip("|").split("|")]
    texts = [column for column, mark in zip(columns, marks, strict=True) if mark != "---:"]
    assert texts == ["file", "model", "engine", "precision", "change", "verdict"]
    cells = [cell.strip().replace("\\", "") for cell in first.strip("|").split(" | ")]
    row = dict(zip(columns, cells, strict=True))
    assert row["model"] == "vit_s 1.0.0 (00000000)"
    assert row["engine"] == "openvino 2026.4.1 CPU"
    assert (row["n"], row["drops"], row["verdict"]) == ("1800", "4 (0.22%)", "baseline")
    assert row["p50"].startswith("12.89 [") and row["p50"].endswith("]")
    assert row["p99.9"].endswith("…]"), "1800 samples do not bound p99.9"
    assert row["parity"] == "ok, worst cosine 0.9980"
    assert "a\\|b \\<i\\> 1.0.0 (11111111)" in second and second.endswith("| worse |")
    assert any("p50 rose by" in line for line in lines[4:])
    assert any("bootstrap intervals" in line for line in lines[4:])


def test_cells_of_missing_values_are_dashes() -> None:
    profile = make_profile(frames=20)
    profile = profile.model_copy(
        update={"parity": [], "run": profile.run.model_copy(update={"rate_hz": None})}
    )
    bare = Subject(engine="tensorrt", device="GPU")
    statistics = describe(profile.run)
    times = replace(
        statistics.latency, n=20, max=9.876, p50=Quantile(1.234, 1.0, None), p90=Quantile(2.345, 2.0, 3.456),
        p95=Quantile(4.5, None, None), p99=Quantile(None, None, None),
    )  # fmt: skip
    statistics = replace(statistics, latency=times, frames=16, dropped=3, failed=1, misses=None)
    row = cells(Entry("a.json", profile.model_copy(update={"subject": bare}), statistics, None), "latency")
    assert row == {
        "file": "a.json", "model": "-", "engine": "tensorrt GPU", "precision": "-", "n": "20",
        "p50": "1.23 [1.00, …]", "p90": "2.35 [2.00, 3.46]", "p95": "4.50", "p99": "-", "p99.9": "-",
        "max": "9.88", "misses": "-", "drops": "4 (25.00%)", "parity": "-", "change": "-",
        "verdict": "baseline",
    }  # fmt: skip


def test_cells_show_changes_and_wrong_graphs() -> None:
    parity = [Parity(graph=name, mean_cosine=1.0, worst_cosine=cosine, max_abs=0.0, ok=ok)
              for name, cosine, ok in (("encoder", 0.5, False), ("predictor", 0.25, True))]  # fmt: skip
    profile = make_profile(frames=20, parity=parity)
    change = Change(0.125, -0.25, 0.5)
    compared = Comparison(
        "worse", ("slower",), ("CPU: a against b",), {"p50": change, "p999": change}, None, None
    )
    statistics = replace(describe(profile.run), misses=0, dropped=0, failed=0)
    entry = Entry("b.json", profile, statistics, compared)
    row = cells(entry, "response")
    assert row["change"] == "p50 +12.5% [-25.0%, +50.0%]; p99.9 +12.5% [-25.0%, +50.0%]"
    assert (row["misses"], row["drops"], row["parity"]) == ("0", "0", "not ok: encoder")
    assert row["max"] == format_ms(statistics.response.max) != format_ms(statistics.latency.max)
    good = profile.model_copy(update={"parity": [each.model_copy(update={"ok": True}) for each in parity]})
    assert cells(replace(entry, profile=good), "response")["parity"] == "ok, worst cosine 0.2500"
    message = remarks([replace(entry, comparison=None), entry], "latency")
    assert message[:2] == ["b.json: slower", "b.json: differs from the baseline: CPU: a against b"]
    assert "latency in ms" in message[2] and len(message) == 5
    assert "response in ms" in remarks([entry], "response")[2]
