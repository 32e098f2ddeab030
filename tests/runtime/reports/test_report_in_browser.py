"""The reports in a browser: layout on phone and desktop, console messages, requests."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.reports.latency_page import LatencyReport, render_latency
from jepa_runtime.reports.profile_page import render_profile
from jepa_runtime.reports.whatif_page import render_whatif
from jepa_sim.closed_loop.results_page import render as render_closed_loop
from tests.runtime.profiles import make_profile, make_run
from tests.runtime.replay.pages import several
from tests.sim.closed_loop.results import driven

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = 390, 1280

# Runs in a page around the reports, whose policy forbids scripts.
MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, wide = page.documentElement;
  const inside = (text) => {
    const box = text.getBoundingClientRect(), whole = text.ownerSVGElement.getBoundingClientRect();
    return box.left >= whole.left - 1 && box.right <= whole.right + 1 &&
      box.top >= whole.top - 1 && box.bottom <= whole.bottom + 1;
  };
  return {
    width: wide.clientWidth,
    needed: wide.scrollWidth,
    charts: [...page.querySelectorAll("svg")].map((svg) => {
      const box = svg.getBoundingClientRect();
      return [box.width, box.height];
    }),
    clipped: [...page.querySelectorAll("svg text")]
      .filter((text) => !inside(text))
      .map((text) => text.textContent),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
  };
}
onload = () => {
  measured.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
};
"""


@dataclass(frozen=True)
class Browser:
    """A headless browser without network access."""

    program: str
    folder: Path

    def load(self, page: str) -> tuple[str, list[str]]:
        """Return the document after loading, and the messages on the console."""
        file = self.folder / "page.html"
        file.write_text(page, encoding="utf-8")
        command = [
            self.program,
            "--headless",
            "--no-sandbox",  # containers run as root, where the sandbox cannot start
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--user-data-dir={self.folder / 'profile'}",
            "--dump-dom",
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        message = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        # The browser also loads pages of its own, which may report a slow network.
        return done.stdout, [line for line in message if "source: chrome://" not in line]

    def measure(self, page: str) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the layout of the page on phone and desktop, and the messages on the console."""
        frames = "".join(
            f"<iframe srcdoc='{html.escape(page)}' style='width:{width}px;height:900px;border:0'></iframe>"
            for width in (PHONE, DESK)
        )
        outer = f"<!doctype html><body>{frames}<pre id='measured'></pre><script>{MEASURE}</script></body>"
        document, message = self.load(outer)
        result = re.search(r"<pre id=.measured.>(.*?)</pre>", document, re.DOTALL)
        assert result is not None
        return json.loads(html.unescape(result[1])), message


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: chromium)")
    return Browser(program, tmp_path_factory.mktemp("browser"))


def reports() -> dict[str, str]:
    samples = [12.0 + index % 7 for index in range(500)]
    run = make_run(frames=6)
    return {
        "profile": render_profile(make_profile()),
        "closed loop": render_closed_loop(driven()),
        "profile of few frames": render_profile(
            make_profile(run=run, sweep=None, closed_loop=None, cold_starts=[], layers=[])
        ),
        "what if": render_whatif(several(), title="What if", subtitle="of a test"),
        "run": render_latency(
            LatencyReport(
                "A run",
                "for a test",
                {"total": samples},
                "total",
                [i / 30 for i in range(500)],
                33.3,
                [("frames per second", "30.0")],
                {"Processor": "one"},
                {"total": "end to end"},
            )
        ),
    }


@pytest.mark.parametrize("name", reports())
def test_report_fits_phone_and_desktop_without_requests(browser: Browser, name: str) -> None:
    layouts, message = browser.measure(reports()[name])
    assert message == []
    for layout, width in zip(layouts, (PHONE, DESK), strict=True):
        assert layout["width"] == width
        assert layout["needed"] <= width, "the page must not scroll sideways"
        assert layout["charts"]
        assert all(wide > 100 and high > 40 for wide, high in layout["charts"])
        assert layout["clipped"] == []
        assert layout["requests"] == []


def test_report_opens_as_a_file_without_console_messages(browser: Browser) -> None:
    document, message = browser.load(reports()["profile"])
    assert "<h1>Latency of vit_s 1.0.0</h1>" in document
    assert message == []


def test_browser_checks_detect_broken_pages(browser: Browser) -> None:
    wide = "<div style='width: 2000px'>-</div>"
    chart = "<svg viewBox='0 0 200 50'><text x='190' y='20'>cut off</text></svg>"
    script = "<script>document.querySelector('svg').remove()</script>"
    layouts, message = browser.measure(reports()["run"].replace("</body>", f"{wide}{chart}{script}</body>"))
    for layout in layouts:
        assert layout["needed"] > layout["width"]
        assert layout["clipped"] == ["cut off"]
        assert len(layout["charts"]) == 3, "the page's policy must keep scripts from running"
    assert "Content Security Policy" in "".join(message)
