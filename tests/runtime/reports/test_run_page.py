"""The page and the figure of a run."""

from __future__ import annotations

import base64
import dataclasses
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa_runtime.errors import RecordingError
from jepa_runtime.reports.page_data import read_page_data
from jepa_runtime.reports.run_figure import draw_run
from jepa_runtime.reports.run_page import render_run, surprises
from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.run_data import Run, Series, read_run
from tests.errors import code
from tests.pages import external
from tests.runtime.bags import write_bag
from tests.runtime.reports.test_report_in_browser import DESK, PHONE, Browser, browser
from tests.runtime.visualization import runs

__all__ = ["browser"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(runs.write_run(tmp_path_factory.mktemp("bags") / "run.mcap", error=0.2))


def test_run_page_is_complete_and_self_contained(run: Run) -> None:
    page = render_run(run)
    for part in ("Observations", "Map of futures", "Energy of each candidate", "Surprise", "1 of 1"):
        assert part in page
    for part in (
        "Prediction errors and their bounds",
        "image to futures in the planner",
        "best candidate",
        "fake 1.2.3",
    ):
        assert part in page
    assert page.count("<section id='futures-predicted") == 4
    assert external(page) == []
    assert "the 60 frames of this run" in page


def test_run_page_embeds_what_its_pictures_draw(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.html").write_text(render_run(run), encoding="utf-8")
    data = read_page_data(tmp_path / "run.html")
    assert len(data["known"]) == runs.FRAMES and len(data["moments"]) == 4
    futures = data["moments"][0]["futures"]
    assert [candidate["role"] for candidate in futures["candidates"]] == ["executed", "best", "worst"]
    assert np.shape(futures["paths"]) == (*np.shape(futures["energies"]), 2) == (5, 3, 2)
    assert data["moments"][0]["errors"] == pytest.approx([0.2] * 3)
    assert data["errors"]["bounds"] == pytest.approx([runs.BOUND] * 3)
    assert data["surprises_s"] == [pytest.approx(4.0)]


def test_run_page_shows_errors_with_their_bounds(run: Run) -> None:
    page = render_run(run)
    row = re.search(r"<tr><td class='text'>0\.2 s</td>(.*?)</tr>", page)
    assert row is not None
    assert re.findall(r">([\d.]+)<", row[1]) == ["0.200", "0.200", "0.250", "0.200"]


def test_surprises_returns_their_starts(run: Run) -> None:
    assert surprises(run) == [pytest.approx(4.0)]


def test_surprising_frames_are_counted_above_the_threshold(run: Run) -> None:
    always = dataclasses.replace(run.threshold, values=np.zeros_like(run.threshold.values))
    assert surprises(dataclasses.replace(run, threshold=always)) == [pytest.approx(0.0)]
    page = render_run(dataclasses.replace(run, threshold=always))
    assert f"<b>{runs.FRAMES} of {runs.FRAMES}</b><small>frames above the threshold" in page


@pytest.mark.parametrize("field", ["value", "threshold"])
def test_surprise_of_nan_is_omitted(field: str, tmp_path: Path) -> None:
    entries = runs.entries()
    reported = next(message for _, topic, _, message in entries if topic.endswith("/surprise"))
    reported[field] = float("nan")
    page = render_run(read_run(write_bag(tmp_path / "run.mcap", entries)))
    assert f"<b>1 of {runs.FRAMES - 1}</b><small>frames above the threshold" in page


def test_latencies_are_rounded_once(run: Run) -> None:
    encode = Series(np.arange(2.0), np.full(2, 1.2346))
    page = render_run(dataclasses.replace(run, latency_ms={"encode": encode}))
    assert "<b>1.23 ms</b>" in page and "<td>1.23</td>" in page


def test_run_page_with_atlas_of_a_bundle_says_so(run: Run) -> None:
    atlas = Atlas.build(run.latents, np.arange(7), [thumbnail(np.zeros((8, 8, 3), np.uint8))] * 7, 2)
    assert "the 7 frames of the bundle&#x27;s atlas" in render_run(run, atlas)


def test_run_page_escapes_names(run: Run) -> None:
    facts = dataclasses.replace(run.facts, model="<b>evil</b>", engine="<script>")
    page = render_run(dataclasses.replace(run, name="<i>x", facts=facts))
    assert "<b>evil" not in page and "<i>x" not in page and "<script>" not in page


def test_run_page_of_minimal_run_omits_sections(tmp_path: Path) -> None:
    few = [entry for entry in runs.entries(goal=False) if entry[1].endswith(("latent", "info", "image_raw"))]
    page = render_run(read_run(write_bag(tmp_path / "run.mcap", few)))
    assert "Observations" in page
    for absent in ("Futures predicted", "Surprise", "Prediction errors", "Distance to the goal"):
        assert absent not in page


def test_run_page_fits_phone_and_desktop_without_requests(browser: Browser, run: Run) -> None:
    layouts, message = browser.measure(render_run(run))
    assert message == []
    for layout, width in zip(layouts, (PHONE, DESK), strict=True):
        assert layout["width"] == width and layout["needed"] <= width
        assert len(layout["charts"]) > 15
        assert all(wide > 100 and high > 40 for wide, high in layout["charts"])
        assert layout["clipped"] == [] and layout["requests"] == []


def test_run_page_images_are_valid(run: Run) -> None:
    files = re.findall(r"href='data:image/(?:jpeg|png);base64,([^']+)'", render_run(run))
    assert len(files) > 60
    for file in files:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(file), np.uint8), cv2.IMREAD_COLOR) is not None


def test_run_figure_is_drawn(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_run(run, tmp_path / "new" / "futures.png")
    image = cv2.imread(str(tmp_path / "new" / "futures.png"))
    assert image is not None and image.shape[1] > 500 and np.unique(image).size > 50


def test_run_figure_without_matplotlib_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RecordingError, check=code("report.matplotlib_missing")):
        draw_run(run, tmp_path / "futures.png")


def test_run_figure_without_predictions_fails(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, check=code("report.no_predictions")):
        draw_run(dataclasses.replace(run, moments=()), tmp_path / "futures.png")


def test_infinite_bounds_are_dashes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = read_run(runs.write_run(tmp_path / "run.mcap", error=0.2, bound=np.inf))
    page = render_run(run)
    row = re.search(r"<tr><td class='text'>0\.2 s</td>(.*?)</tr>", page)
    assert row is not None
    assert re.findall(r">([\d.-]+)<", row[1]) == ["0.200", "0.200", "-", "0.200"]
    assert "inf" not in re.sub(r"base64,[\w+/=]+", "", page.partition("<body>")[2]).replace("info", "")
    draw_run(run, tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["figure", "figure.xyz"])
def test_run_figure_is_a_png_for_any_file_name(run: Run, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    draw_run(run, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
