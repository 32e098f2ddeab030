"""What charts draw: labels, ticks, gaps and limits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jepa_runtime.reports import profile_charts
from jepa_runtime.reports.latency_charts import histogram
from jepa_runtime.reports.profile_charts import Bar
from jepa_runtime.reports.run_charts import COLORS, colors_of, over_steps, over_time
from jepa_runtime.reports.svg_plot import Plot, usual_gap
from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.visualization.palette import EXECUTED, SERIES


def lines(chart: str, kind: str) -> list[list[tuple[float, float]]]:
    """Return the corners of each line of a kind."""
    result = re.findall(f"<polyline class='{kind}' points='([^']*)'", chart)
    return [[tuple(map(float, corner.split(","))) for corner in points.split()] for points in result]


def texts(chart: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)<", chart)


def test_stage_chart_prints_p99_at_its_whisker() -> None:
    chart = profile_charts.waterfall([Bar("encode", 0.0, 5.0, 9.0, 0), Bar("predict", 5.0, 7.0, None, 0)])
    assert {"5.00, p99 9.00", "7.00"} <= set(texts(chart))


@pytest.mark.parametrize(
    ("top", "labels"),
    [
        (50.0, ["0", "10", "20", "30", "40", "50"]),
        (1.2, ["0", "0.25", "0.5", "0.75", "1"]),
        (12.0, ["0", "2.5", "5", "7.5", "10"]),
        (3e6, ["0", "1000000", "2000000", "3000000"]),
    ],
)
def test_vertical_ticks_are_round(top: float, labels: list[str]) -> None:
    assert texts("".join(Plot().values(top, "ms")))[1:] == labels


def test_line_is_interrupted_at_undefined_points_and_single_points_are_dots() -> None:
    points = [(0.0, 0.5), (0.2, 0.5), (0.4, np.nan), (0.6, 0.5), (0.8, np.inf), (1.0, 0.5)]
    result = lines(Plot().polyline(points, "limit"), "limit")
    assert [len(each) for each in result] == [2, 2, 2]
    assert result[1][0] == result[1][1]


def test_line_is_interrupted_at_gaps() -> None:
    positions = [*np.linspace(0.0, 0.3, 10), *np.linspace(0.7, 1.0, 10)]
    gap = usual_gap(positions, at_least=0.0)
    result = lines(Plot().polyline([(x, 0.5) for x in positions], "limit", max_gap=gap), "limit")
    assert [len(each) for each in result] == [10, 10]


def test_reading_is_not_drawn_across_a_pause() -> None:
    times = [*range(20), *range(60, 80)]
    chart = profile_charts.reading(
        Reading(name="power", unit="W", times_s=times, values=[1.0 + t for t in times])
    )
    assert len(lines(chart, "s0 stroke")) == 2


def test_series_over_time_is_not_drawn_across_a_pause() -> None:
    times = np.array([*range(20), *range(60, 80)], float)
    chart = over_time({"surprise": (times, np.ones(40))}, 80.0, "error")
    assert len(lines(chart, "s0 stroke")) == 2


def test_errors_are_not_squeezed_by_a_high_bound() -> None:
    ahead = np.array([0.2, 0.4])
    chart = over_steps(ahead, {"executed": np.array([1.0, 2.0])}, "norm", limit=np.array([3.0, 1000.0]))
    (error,) = lines(chart, f"s{COLORS['executed']} stroke")
    assert error[0][1] - error[1][1] > 20
    assert "limit up to 1e+03, not shown" in texts(chart)


def test_executed_actions_have_their_color_and_others_none_of_it() -> None:
    result = colors_of(["a", "executed", "b", "c", "d", "e"])
    assert SERIES[result[1]] == EXECUTED and len(set(result)) == 6


def test_histogram_marks_a_late_frame_in_the_bin_of_the_deadline() -> None:
    chart = histogram([33.0] * 99 + [33.4], 33.3)
    assert len(re.findall("class='late'", chart)) == 1 and "class='s0 fill'" in chart
    assert "class='late'" not in histogram([33.0] * 100, 33.3)
