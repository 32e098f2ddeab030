"""The template of pages: contents, anchors, and the data embedded in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from jepa_runtime.errors import SourceError
from jepa_runtime.reports.html import Html, note, page, section
from jepa_runtime.reports.page_data import read_page_data
from tests.errors import code
from tests.runtime.reports.test_report_in_browser import reports


@dataclass(frozen=True)
class Drawn:
    name: str
    values: np.ndarray


def saved(folder: Path, data: dict[str, object]) -> Path:
    path = folder / "page.html"
    path.write_text(page("A page", "of a test", [note("text")], data), encoding="utf-8")
    return path


def test_page_data_returns_what_the_page_embeds(tmp_path: Path) -> None:
    drawn = Drawn("</script><b>&", np.array([1.5, np.nan, np.inf]))
    path = saved(tmp_path, {"report": "test", "drawn": drawn, "path": Path("a/b"), 3: (1, None)})
    assert read_page_data(path) == {
        "report": "test",
        "drawn": {"name": "</script><b>&", "values": [1.5, None, None]},
        "path": "a/b",
        "3": [1, None],
    }
    ElementTree.fromstring(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("content", ["<html></html>", "<script type='application/json' id='data'>1</script>"])
def test_page_data_of_another_page_raises(content: str, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, check=code("report.no_page_data")):
        read_page_data(other)


def test_page_data_of_a_missing_or_damaged_page_raises(tmp_path: Path) -> None:
    with pytest.raises(SourceError, check=code("report.page_unreadable")):
        read_page_data(tmp_path / "missing.html")
    damaged = tmp_path / "damaged.html"
    damaged.write_text("<script type='application/json' id='data'>{</script>", encoding="utf-8")
    with pytest.raises(SourceError, check=code("report.page_unreadable")):
        read_page_data(damaged)


@pytest.mark.parametrize("name", reports())
def test_every_report_embeds_its_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(reports()[name], encoding="utf-8")
    assert read_page_data(path).keys() > {"report"}


def test_long_page_has_contents_that_lead_to_its_sections() -> None:
    parts = [section(title, Html("<p/>")) for title in ("One & two", "3", "Data", "3", "Last")]
    text = page("A page", "of a test", parts, {})
    contents = re.search("<nav.*?</nav>", text)
    assert contents is not None
    links = re.findall("href='#([^']+)'>([^<]+)<", contents[0])
    assert links == [
        ("one-two", "One &amp; two"), ("3", "3"), ("data-2", "Data"), ("3-2", "3"), ("last", "Last")
    ]  # fmt: skip
    assert re.findall("<section id='([^']+)'>", text) == [anchor for anchor, _ in links]


def test_short_page_has_no_contents() -> None:
    assert "<nav" not in page("A page", "of a test", [section("One", "text")], {})
