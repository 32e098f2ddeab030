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


def snapshot() -> view.GraphSnapshot:
    picture = view.GraphSnapshot()
    picture.set_model(ModelInfo(model_id="mine [/red]", version="[1"))
    picture.add_planner_status(PlannerStatus(state=PlannerStatus.SEEKING, e2e_ms=7.0, energy=2.0))
    picture.add_planner_status(PlannerStatus(state=200, e2e_ms=math.nan, energy=math.inf))
    picture.add_episode(EpisodeResult(index=3, outcome="reached [/]", duration_s=1.0))
    picture.elapsed_s = 9.0
    return picture


def test_plain_line_describes_a_planner_of_another_vendor(capsys: pytest.CaptureFixture[str]) -> None:
    view.PlainLines(1.0).show(snapshot())
    output = capsys.readouterr().out
    assert "max 7.00 ms" in output and "state 200" in output and "goals 1/1" in output


def test_received_text_cannot_control_the_terminal() -> None:
    view_model = snapshot()
    view_model.set_model(ModelInfo(model_id="\x1b[2K"))
    view_model.add_episode(EpisodeResult(outcome="\x1b]0;"))
    view_model.set_diagnostics(DiagnosticStatus(level=DiagnosticStatus.ERROR, name="\r", message="\x9b1A"))
    assert "ERROR: \\x9b1A" in view_model.line()
    assert view_model.model.startswith("\\x1b[2K") and view_model.health["\\r"]
    assert view_model.episodes[-1].startswith("0: \\x1b]0;")


def test_names_are_shown_unchanged_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=written, width=120))
    terminal = view.Terminal()
    terminal.show(snapshot())
    terminal.close()
    for name in ("mine [/red] [1", "reached [/]", "state 200", "▁"):
        assert name in written.getvalue()
