"""The latency report of a run."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from jepa_runtime.reports.latency_page import LatencyReport, render_latency
from jepa_runtime.reports.svg_plot import Plot
from tests.pages import external


def report(samples: list[float], deadline_ms: float | None = 33.0, **changes: object) -> LatencyReport:
    settings = {
        "title": "Latency",
        "subtitle": "a test",
        "stages": {"total": samples, "encode": samples},
        "main": "total",
        "times_s": [index / 30 for index in range(len(samples))],
        "deadline_ms": deadline_ms,
        "headline": [("frames per second", "30.0")],
        "facts": {"Processor": "a <fast> one"},
        "descriptions": {"total": "end to end"},
    }
    return LatencyReport(**{**settings, **changes})


def test_latency_page_is_self_contained() -> None:
    page = render_latency(report([5.0] * 200))
    assert external(page) == []


@pytest.mark.parametrize("samples", [[], [1.0], [5.0] * 50, [float(value) for value in range(1, 2000)]])
@pytest.mark.parametrize("deadline_ms", [None, 33.0])
def test_latency_page_is_well_formed_for_any_number_of_samples(
    samples: list[float], deadline_ms: float | None
) -> None:
    page = ElementTree.fromstring(render_latency(report(samples, deadline_ms)))
    assert [chart.get("role") for chart in page.iter("svg")] == ["img", "img"]


def test_latency_page_escapes_names_and_values() -> None:
    page = render_latency(report([1.0], title="<b>&"))
    assert "<title>&lt;b&gt;&amp;</title>" in page
    assert "a &lt;fast&gt; one" in page


def test_samples_beyond_the_deadline_are_marked() -> None:
    assert "class='late'" not in render_latency(report([5.0] * 100))
    assert "class='late'" in render_latency(report([5.0] * 100 + [50.0] * 5))


def test_histogram_labels_outliers_instead_of_drawing_them() -> None:
    page = render_latency(report([5.0] * 999 + [900.0]))
    assert "1 more, up to 900.0 ms" in page


def test_percentiles_with_too_few_samples_are_dashes() -> None:
    page = ElementTree.fromstring(render_latency(report([5.0] * 50)))
    rows = [[cell.text for cell in row] for row in page.iter("tr")]
    assert ["end to end", "5.00", "5.00", "-", "5.00", "50"] in rows


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (15.97, ["0", "5", "10", "15 s"]),
        (11.2, ["0", "2.5", "5", "7.5", "10 s"]),
        (36000.0, ["0", "10000", "20000", "30000 s"]),
        (0.0016, ["0", "0.0005", "0.001", "0.0015 s"]),
        (0.0, ["0 s"]),
    ],
)
def test_ticks_are_short_numbers(seconds: float, expected: list[str]) -> None:
    assert re.findall(r">([^<]+)<", "".join(Plot().round_ticks(seconds, "s"))) == expected


def test_inconsistent_report_raises() -> None:
    with pytest.raises(ValueError, match="main must be one of"):
        report([1.0], main="elsewhere")
    with pytest.raises(ValueError, match="one entry per sample"):
        report([1.0, 2.0], times_s=[0.0])
