"""The HTML page of a profile."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.profiling.profile import Layer, Parity, Profile, ReportedLatencies, Run, Subject, Sweep
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.reports.html import ms
from jepa_runtime.reports.profile_page import render_profile
from jepa_runtime.telemetry.measurements import Environment, Reading
from tests.pages import external
from tests.runtime.profiles import make_profile, make_run

HOSTILE = "<script>alert('1')</script>&\"'>"


def minimal(run: Run, **changes: Any) -> Profile:
    """Return a profile with only a run."""
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00Z",
        "tool": "jepa-runtime 0.0",
        "kind": "pipeline",
        "subject": Subject(engine="openvino", device="CPU"),
        "environment": Environment(cpu="A Processor", cores=2, architecture="x86_64", versions={}),
        "run": run,
    }
    return Profile(**(fields | changes))


def imported() -> Profile:
    """Return an imported profile with percentiles only."""
    run = Run(
        rate_hz=None,
        deadline_ms=None,
        duration_s=10.0,
        scheduled_s=[],
        latency_ms=[],
        stages_ms={},
        reported=ReportedLatencies(n=2400, quantiles_ms={"p50": 4.25}, mean_ms=4.5, max_ms=9.0),
    )
    unknown = Environment(cpu="unknown", cores=0, architecture="unknown", versions={})
    return minimal(run, kind="benchmark_app", tool="benchmark_app", environment=unknown)


def parse(profile: Profile) -> Element:
    return ElementTree.fromstring(render_profile(profile))


def words(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def cards(page: Element) -> dict[str, tuple[str, str]]:
    """Return value and remark of each card by its label."""
    result = {}
    for card in page.iter("div"):
        if "card" in card.get("class", "").split():
            remark = card.find("small")
            label, value = (str(card.findtext(tag)) for tag in ("span", "b"))
            result[label] = (value, "" if remark is None else words(remark))
    return result


def sections(page: Element) -> dict[str, Element]:
    return {str(section.findtext("h2/a")): section for section in page.iter("section")}


def rows(element: Element) -> dict[str, list[str]]:
    """Return the cells of all table rows by the first cell, without intervals."""
    return {
        words(row[0]): [(cell.text or words(cell)) for cell in row[1:]]
        for row in element.iter("tr")
        if len(row)
    }


@pytest.mark.parametrize(
    "profile",
    [
        make_profile(),
        make_profile(frames=5),
        minimal(make_run(frames=0)),
        minimal(make_run(frames=1)),
        minimal(make_run(frames=50).model_copy(update={"rate_hz": None, "deadline_ms": None})),
        imported(),
    ],
    ids=["full", "five frames", "no frame", "one frame", "closed loop", "imported"],
)
def test_profile_page_is_well_formed_and_self_contained(profile: Profile) -> None:
    source = render_profile(profile)
    assert external(source) == []
    assert "default-src 'none'" in source
    page = ElementTree.fromstring(source)
    for chart in page.iter("svg"):
        assert chart.get("role") == "img"
        assert chart.get("aria-label")
        for drawn in chart.iter():
            numbers = " ".join(
                value for name, value in drawn.attrib.items() if name not in ("class", "aria-label")
            )
            assert not re.search(r"\b(nan|inf|None)\b", numbers)


def test_headline_is_the_response() -> None:
    profile = make_profile()
    run = describe(profile.run)
    shown = cards(parse(profile))
    for label, quantile in (
        ("p50", run.response.p50),
        ("p99", run.response.p99),
        ("p99.9", run.response.p999),
    ):
        assert shown[f"Response {label}"][0] == f"{ms(quantile.value)} ms"
        assert ms(quantile.low) in shown[f"Response {label}"][1]
    assert shown["Deadline misses"][0] == f"{run.misses} of 1800"
    assert shown["Frames dropped"] == ("3 of 1800", "and 1 failed")
    assert shown["Results"] == (f"{run.achieved_hz:.4g} Hz", "scheduled: 30 Hz")
    assert shown["Parity"] == ("0.99800", "worst cosine; within tolerance")


def test_stall_that_drops_frames_shows_in_the_headline() -> None:
    due = np.arange(300) / 30
    stalled = (due > 2.0) & (due < 4.0)
    run = Run(
        rate_hz=30.0,
        deadline_ms=1000 / 30,
        duration_s=10.0,
        scheduled_s=due[~stalled].tolist(),
        latency_ms=[10.0] * int((~stalled).sum()),
        stages_ms={},
        dropped_s=due[stalled].tolist(),
    )
    page = parse(minimal(run))
    assert float(cards(page)["Response p99"][0].removesuffix(" ms").replace(",", "")) > 1800
    assert rows(page)["latency, processed frames"][3] == "10.00"
    assert "dropped" in words(sections(page)["Over time"])


def test_latency_and_parity_share_a_section() -> None:
    bad = Parity(graph="predictor", mean_cosine=0.9, worst_cosine=0.5, max_abs=1.0, ok=False)
    page = parse(make_profile(parity=[*make_profile().parity, bad]))
    together = rows(sections(page)["Latency and parity"])
    assert together["response, all scheduled frames"][-1] == "1800"
    assert together["encoder"] == ["within tolerance", "0.999900", "0.998000", "0.02"]
    assert together["predictor"][0] == "outside tolerance"
    assert cards(page)["Parity"] == ("0.50000", "worst cosine; outside tolerance")


def test_percentiles_with_too_few_frames_are_dashes() -> None:
    page = parse(minimal(make_run(frames=50)))
    assert cards(page)["Response p99"] == ("-", "too few frames (50)")
    assert cards(page)["Parity"] == ("-", "not measured")
    assert rows(sections(page)["Stages"])["encode"][3:5] == ["-", "-"]


def test_stages_section_lists_stages_residual_and_absent_ones() -> None:
    profile = make_profile()
    stages = sections(parse(profile))["Stages"]
    expected = describe(profile.run)
    table = rows(stages)
    assert list(table)[1:] == [*profile.run.stages_ms, "residual", "end to end"]
    assert table["encode"] == [
        *(ms(quantile.value) for quantile in expected.stages["encode"].quantiles().values()),
        ms(expected.stages["encode"].max),
        "1796",
    ]
    assert "publish: nothing is published without ROS 2" in words(stages)


def test_waterfall_stages_are_consecutive() -> None:
    profile = make_profile()
    (chart,) = sections(parse(profile))["Stages"].iter("svg")
    bars = [(float(bar.get("x", "")), float(bar.get("width", ""))) for bar in chart.iter("rect")]
    *stages, whole = bars
    assert len(stages) == len(profile.run.stages_ms) + 1
    for (x, width), (following, _) in pairwise(stages):
        assert following == pytest.approx(x + width, abs=1.1)
    assert whole[0] == pytest.approx(stages[0][0], abs=0.1)
    assert sum(stages[-1]) == pytest.approx(sum(whole), rel=0.02)


def test_unmeasured_sections_are_omitted() -> None:
    assert set(sections(parse(minimal(make_run(frames=200))))) == {
        "Latency and parity",
        "Measurement",
        "Distribution",
        "Over time",
        "Stages",
        "Environment",
    }


def test_throughput_cold_start_and_machine_are_shown() -> None:
    page = sections(parse(make_profile()))
    assert rows(page["Throughput"])["40 Hz"] == ["400", "40", "60", "16.00", "23.00", "56.00"]
    assert "The knee, 30 Hz" in words(page["Throughput"])
    assert "Highest rate, closed loop" in cards(page["Throughput"])
    assert rows(page["Cold start and idle"])["first encode"] == ["9.25"]
    assert rows(page["Cold start and idle"])["total"] == ["1,340"]
    machine = words(page["Machine"])
    assert "package power: no RAPL counters in /sys/class/powercap" in machine
    assert "not measured: the machine has no power sensor" in machine
    assert "mean 250 MB, 250 to 250" in machine


def test_reading_before_the_run_starts_at_zero() -> None:
    early = Reading(name="rss", unit="MB", times_s=[-0.1, 4.9], values=[1.0, 2.0])
    messages = words(sections(parse(make_profile(readings=[early])))["Machine"])
    assert "5 s" in messages and "-0 s" not in messages


def test_sweep_without_knee_says_so() -> None:
    points = make_profile().sweep.points[-1:]
    page = parse(make_profile(sweep=Sweep(points=points, max_late=0.01, knee_hz=None)))
    assert "No sustained rate: more than 1 %" in words(sections(page)["Throughput"])


def test_sum_of_stage_medians_is_compared_with_the_total() -> None:
    """A stall in a different stage each time does not affect the median of any stage."""
    run = make_run(frames=100)
    stages = {
        name: [1.0, 1.0, 7.0][at:] + [1.0, 1.0, 7.0][:at]
        for at, name in enumerate(("wait", "encode", "predict"))
    }
    stored = {"scheduled_s": run.scheduled_s[:3], "latency_ms": [9.0] * 3, "stages_ms": stages}
    page = parse(make_profile(run=run.model_copy(update=stored | {"device_ms": {}})))
    reported = words(sections(page)["Stages"])
    assert (
        "Medians do not add up to the median of the whole: their sum is 3.00 ms, the median 9.00 ms."
        in reported
    )


def test_slowest_layers_come_first_and_others_are_folded() -> None:
    layers = sections(parse(make_profile()))["Layers"]
    (folded,) = layers.iter("details")
    inside = {name for name in rows(folded) if name.startswith("block")}
    shown = [name for name in rows(layers) if name.startswith("block") and name not in inside]
    assert shown == [f"block{index}/MatMul" for index in range(29, 9, -1)]
    assert len(inside) == 10
    total = sum(layer.mean_ms for layer in make_profile().layers)
    assert rows(layers)["block29/MatMul"][2:] == ["0.390", f"{100 * 0.39 / total:.1f} %"]


def test_profile_page_escapes_names() -> None:
    full = make_profile()
    reading = Reading(name=HOSTILE, unit=HOSTILE, times_s=[0.0, 1.0], values=[1.0, 2.0])
    hostile = full.model_copy(
        update={
            "tool": HOSTILE,
            "created": HOSTILE,
            "subject": full.subject.model_copy(
                update=dict.fromkeys(
                    ("model_id", "model_version", "engine", "device", "source", "sha256"), HOSTILE
                )
            ),
            "environment": Environment(
                cpu=HOSTILE,
                cores=1,
                architecture=HOSTILE,
                versions={HOSTILE: HOSTILE},
                settings={HOSTILE: HOSTILE},
            ),
            "run": full.run.model_copy(
                update={"stages_ms": {HOSTILE: full.run.stages_ms["encode"]}, "absent": {HOSTILE: HOSTILE}}
            ),
            "readings": [reading, Reading(name=HOSTILE, unit="W", absent=HOSTILE)],
            "parity": [full.parity[0].model_copy(update={"graph": HOSTILE})],
            "layers": [
                Layer(graph=HOSTILE, name=HOSTILE, kind=HOSTILE, implementation=HOSTILE, mean_ms=1.0),
            ],
            "notes": [HOSTILE],
        }
    )
    page = parse(hostile)
    assert [element.get("id") for element in page.iter("script")] == ["data"]
    assert words(page).count("alert(") > 15
    names = {name for element in page.iter() for name in element.attrib}
    assert names <= {
        *(
            "class",
            "id",
            "href",
            "type",
            "style",
            "lang",
            "charset",
            "name",
            "content",
            "http-equiv",
            "scope",
            "role",
            "aria-label",
        ),
        *("viewBox", "x", "y", "width", "height", "x1", "x2", "y1", "y2", "cx", "cy", "r", "points"),
        *("text-anchor", "fill-opacity"),
    }


def test_imported_summary_shows_neither_drops_nor_samples() -> None:
    page = parse(imported())
    shown = cards(page)
    assert shown["Latency p50"] == ("4.25 ms", "")
    assert shown["Latency p99"] == ("-", "not reported")
    assert "Frames dropped" not in shown
    assert {"Distribution", "Over time", "Stages"}.isdisjoint(sections(page))
    assert "summary without samples" in words(page)
    assert "0 cores" not in words(page)


def test_closed_loop_page_has_no_response() -> None:
    run = make_run(frames=200).model_copy(update={"rate_hz": None, "deadline_ms": None})
    page = parse(minimal(run))
    assert "Response p50" not in cards(page)
    assert "these are not latencies at a fixed rate" in words(page)


@settings(max_examples=40)
@given(
    latencies=st.lists(st.floats(-1.0, 1e7), max_size=15),
    dropped=st.lists(st.floats(0.0, 1e4), max_size=5),
    deadline_ms=st.none() | st.floats(1e-3, 1e6),
)
def test_arbitrary_run_gives_a_well_formed_page(
    latencies: list[float], dropped: list[float], deadline_ms: float | None
) -> None:
    run = Run(
        rate_hz=30.0,
        deadline_ms=deadline_ms,
        duration_s=1.0,
        scheduled_s=[index / 30 for index in range(len(latencies))],
        latency_ms=latencies,
        stages_ms={"encode": latencies},
        dropped_s=dropped,
    )
    assert sections(parse(minimal(run)))
