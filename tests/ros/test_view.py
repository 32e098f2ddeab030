"""Views of the monitor: no message content may break them."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

view = pytest.importorskip(
    "jepa_ros.common.monitor_view", reason="the workspace is not on the paths: . scripts/env.sh"
)
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from jepa_msgs.msg import EpisodeResult, ModelInfo, PlannerStatus  # noqa: E402

pytestmark = pytest.mark.ros


def told() -> view.GraphSnapshot:
    picture = view.GraphSnapshot()
    picture.set_model(ModelInfo(model_id="mine [/red]", version="[1"))
    picture.add_planner_status(PlannerStatus(state=PlannerStatus.SEEKING, e2e_ms=7.0, energy=2.0))
    picture.add_planner_status(PlannerStatus(state=200, e2e_ms=math.nan, energy=math.inf))
    picture.add_episode(EpisodeResult(index=3, outcome="reached [/]", duration_s=1.0))
    picture.elapsed_s = 9.0
    return picture


def test_plain_line_describes_a_planner_of_another_vendor(capsys: pytest.CaptureFixture[str]) -> None:
    view.PlainLines(1.0).show(told())
    said = capsys.readouterr().out
    assert "max 7.00 ms" in said and "state 200" in said and "goals 1/1" in said


def test_received_text_cannot_control_the_terminal() -> None:
    picture = told()
    picture.set_model(ModelInfo(model_id="\x1b[2K"))
    picture.add_episode(EpisodeResult(outcome="\x1b]0;"))
    picture.set_diagnostics(DiagnosticStatus(level=DiagnosticStatus.ERROR, name="\r", message="\x9b1A"))
    assert "ERROR: \\x9b1A" in picture.line()
    assert picture.model.startswith("\\x1b[2K") and picture.health["\\r"]
    assert picture.episodes[-1].startswith("0: \\x1b]0;")


def test_names_are_shown_unchanged_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=written, width=120))
    terminal = view.Terminal()
    terminal.show(told())
    terminal.close()
    for name in ("mine [/red] [1", "reached [/]", "state 200", "▁"):
        assert name in written.getvalue()
