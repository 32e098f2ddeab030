"""The page of a comparison of profiles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jepa_runtime.cli import main
from jepa_runtime.profiling.profile import Profile, write_profile
from jepa_runtime.reports.page_data import read_page_data
from tests.runtime.profiles import make_profile, with_run, with_subject
from tests.runtime.reports.test_report_in_browser import DESK, PHONE, Browser, browser

__all__ = ["browser"]


def compared(folder: Path, *profiles: Profile) -> Path:
    """Return the page that the command writes about profiles 0.json, 1.json, …"""
    files = [folder / f"{index}.json" for index in range(len(profiles))]
    for profile, file in zip(profiles, files, strict=True):
        write_profile(profile, file)
    page = folder / "page.html"
    options = ["--html", str(page), "--json", str(folder / "out.json"), "--allow-different"]
    main(["compare", *map(str, files), *options])
    return page


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slow = with_subject(make_profile(seed=7, scale=1.2), model_id="<b>slow")
    return compared(tmp_path_factory.mktemp("pages"), make_profile(), slow)


def test_comparison_page_shows_verdicts_changes_and_distributions(slower: Path) -> None:
    text = slower.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "<span>0.json</span><b>baseline</b>" in text and "<span>1.json</span><b>worse</b>" in text
    assert re.findall(r"class='late'[^>]*><title>(1\.json, p\d+): \+1[789]", text) == [
        "1.json, p50", "1.json, p99"
    ]  # fmt: skip
    assert text.count("<svg") == 2 and "p50 rose by" in text
    assert "<b>slow" not in text


def test_comparison_page_embeds_the_comparison_and_its_samples(slower: Path) -> None:
    data = read_page_data(slower)
    written = json.loads((slower.parent / "out.json").read_text(encoding="utf-8"))
    assert data["profiles"] == written["profiles"]
    assert {name: len(samples) for name, samples in data["samples_ms"].items()} == {
        "0.json": 1800, "1.json": 1800
    }  # fmt: skip


def test_comparison_page_of_too_few_samples_has_no_changes(tmp_path: Path) -> None:
    few = with_run(make_profile(), scheduled_s=[0.0], latency_ms=[1.0], stages_ms={}, dropped_s=[])
    text = compared(tmp_path, few, few).read_text(encoding="utf-8")
    assert "id='changes'" not in text and "not judged" in text


def test_comparison_page_fits_phone_and_desktop_without_requests(browser: Browser, slower: Path) -> None:
    layouts, messages = browser.measure(slower.read_text(encoding="utf-8"))
    assert messages == []
    for layout, width in zip(layouts, (PHONE, DESK), strict=True):
        assert layout["width"] == width and layout["needed"] <= width
        assert layout["clipped"] == [] and layout["requests"] == []
