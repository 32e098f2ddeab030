"""Messages of the update manager, and its parameter file and launch files."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.msg import ModelInfo
from jepa_ros.common.conversions import from_time
from jepa_ros.update import status_messages
from jepa_ros.update.action_feedback import UpdateFeedback
from jepa_ros.update.parameters import PARAMETERS

from jepa_runtime.ota.gate.sequential_test import Summary, Verdict
from jepa_runtime.ota.gate.shadow_test import ShadowReport
from jepa_runtime.ota.state import ChannelRelease, Phase, State
from jepa_runtime.telemetry.diagnostics import Level
from tests.ota.robots import Clock, release, settings

pytestmark = pytest.mark.ros

WORKSPACE = Path(__file__).resolve().parents[2] / "ros2_ws"
WORK = ChannelRelease(channel="stable", release=release(2))
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
WELL = State(checked_at=NOW - timedelta(minutes=30), signed_at=NOW - timedelta(hours=1))
ROOM = 1 << 40


def verdict_of(
    state: State, *, info: ModelInfo | None = None, polls: bool = True, free_bytes: int = ROOM, **fields: Any
) -> Any:
    verdict, figures = status_messages.verdict(
        state,
        settings(**fields),
        [state.alarm] if state.alarm else [],
        info=info,
        polls=polls,
        now=NOW,
        free_bytes=free_bytes,
    )
    assert all(key and str(value) is not None for key, value in figures.items())
    assert figures["free_mb"] == round(free_bytes / 1e6)
    return verdict


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        (WELL, Level.OK, "idle"),
        (State(), Level.OK, "idle"),
        (replace(WELL, phase=Phase.ARMED, candidate=WORK), Level.OK, "armed"),
        (replace(WELL, result="rejected", reason="it is slow"), Level.OK, "idle"),
        (replace(WELL, alarm="could not go back"), Level.ERROR, "could not go back"),
        (replace(WELL, checked_at=NOW - timedelta(hours=3)), Level.WARN, "last reached 10800 s ago"),
        (
            replace(WELL, checked_at=NOW - timedelta(hours=3), result="failed", reason="no route"),
            Level.WARN,
            "last reached 10800 s ago: no route",
        ),
        (State(result="failed", reason="no route"), Level.WARN, "never reached: no route"),
        (replace(WELL, signed_at=NOW + timedelta(days=1)), Level.WARN, "the system clock is behind"),
    ],
)
def test_diagnostics_describe_the_update_state(state: State, level: Level, words: str) -> None:
    verdict = verdict_of(state)
    assert verdict.level is level and words in verdict.message


def test_robot_that_checks_only_on_request_has_no_warning_of_old_metadata() -> None:
    assert verdict_of(replace(WELL, checked_at=NOW - timedelta(days=30)), polls=False).level is Level.OK


def test_node_that_serves_another_model_is_a_warning_between_updates() -> None:
    serves = replace(WELL, current=WORK.installed)
    assert verdict_of(serves, info=info_of(WORK.installed.manifest_sha256)).level is Level.OK
    other = verdict_of(serves, info=info_of("f" * 64))
    assert other.level is Level.WARN and "serves ffffffffffff, not toy 2.0.0 (2)" in other.message
    observing = replace(serves, phase=Phase.OBSERVE, candidate=WORK)
    assert verdict_of(observing, info=info_of("f" * 64)).level is Level.OK


def info_of(sha256: str) -> ModelInfo:
    return ModelInfo(sha256=sha256, engine="openvino", device="CPU", precision="int8")


@pytest.mark.parametrize(
    ("fields", "tried"),
    [
        ({}, ""),
        ({"precision": "int8"}, ""),
        ({"precision": "fp32"}, "openvino:CPU in fp32"),
        ({"engine": "openvino:GPU"}, "openvino:GPU"),
    ],
)
def test_gate_with_other_settings_than_the_node_is_a_warning(fields: dict[str, str], tried: str) -> None:
    serves = replace(WELL, current=WORK.installed)
    verdict = verdict_of(serves, info=info_of(WORK.installed.manifest_sha256), **fields)
    assert verdict.level is (Level.WARN if tried else Level.OK)
    assert tried in verdict.message


def test_full_disk_is_a_warning() -> None:
    verdict = verdict_of(WELL, free_bytes=1 << 20)
    assert verdict.level is Level.WARN and verdict.message.startswith("disk space is too low")
    assert "1 MB free" in verdict.message


def test_diagnostics_contain_the_last_contact_with_the_repository() -> None:
    assert from_time(status_messages.status(State(), settings()).checked) == 0
    assert from_time(status_messages.status(WELL, settings()).checked) == WELL.checked_at.timestamp() * 1e9


def test_diagnostics_contain_the_release_awaiting_approval() -> None:
    armed = replace(WELL, phase=Phase.ARMED, candidate=WORK)
    assert status_messages.status(armed, settings(approval=True)).awaits_approval
    assert not status_messages.status(armed, settings()).awaits_approval
    approved = replace(armed, approved=WORK.release.manifest_sha256)
    assert not status_messages.status(approved, settings(approval=True)).awaits_approval
    assert status_messages.status(armed, settings()).candidate.release_seq == 2


def test_feedback_reports_bytes_a_few_times_a_second_and_the_last_always() -> None:
    sent: list[tuple[str, int, float]] = []
    clock = Clock()
    feedback = UpdateFeedback(
        lambda message: sent.append((message.state, message.bytes_done, message.bytes_per_s)), clock.monotonic
    )
    feedback.on_state(State(phase=Phase.DOWNLOAD, candidate=WORK), "")
    for done in range(0, 1001, 5):
        feedback.on_download(done, 1000)
        clock.sleep(0.01)
    assert sent[0] == ("download", 0, 0.0)
    assert sent[-1][:2] == ("download", 1000) and sent[-1][2] == pytest.approx(500.0)
    assert 10 <= len(sent) <= 13


def test_feedback_of_one_update_does_not_carry_over() -> None:
    sent: list[float] = []
    feedback = UpdateFeedback(lambda message: sent.append(message.shadow_error_ratio))
    known = Summary(60, 0.2, 0.3, -0.1, 0.2)
    feedback.on_comparison(ShadowReport(Verdict.CONTINUE, "", known, 90, 80, 60))
    assert sent[-1] == pytest.approx(1.5)
    feedback.on_state(State(phase=Phase.CHECK), "")
    assert math.isnan(sent[-1])


def test_comparison_without_results_can_be_reported() -> None:
    sent: list[float] = []
    nothing = Summary(0, math.nan, math.nan, -math.inf, math.inf)
    UpdateFeedback(lambda message: sent.append(message.shadow_error_ratio)).on_comparison(
        ShadowReport(Verdict.CONTINUE, "", nothing, 1, 0, 0)
    )
    assert math.isnan(sent[-1])


def test_parameter_file_has_every_parameter_with_its_default() -> None:
    yaml = pytest.importorskip("yaml")
    shipped = yaml.safe_load((WORKSPACE / "src/jepa_bringup/config/jepa.yaml").read_text(encoding="utf-8"))
    own, common = (shipped[name]["ros__parameters"] for name in ("/**/update_manager", "/**"))
    given = own | {name: common[name] for name in ("report_path", "enable_stamped_cmd_vel")}
    assert given == {parameter.name: parameter.default for parameter in PARAMETERS}


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros are not among the wheels; install ROS 2 to test them",
)
@pytest.mark.parametrize(
    ("name", "given", "starts"),
    [
        ("update_manager", {"update_root": "/robot"}, {"update_manager"}),
        ("world_model", {"update_root": "/robot"}, {"world_model", "update_manager"}),
        ("world_model", {}, {"world_model"}),
    ],
)
def test_launch_files_take_the_arguments_of_nav2_and_start_their_nodes(
    name: str, given: dict[str, str], starts: set[str]
) -> None:
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    path = WORKSPACE / "src" / "jepa_bringup" / "launch" / f"{name}.launch.py"
    described = get_launch_description_from_python_launch_file(str(path))
    arguments = {argument.name for argument in described.get_launch_arguments()}
    nav2 = {"namespace", "use_sim_time", "autostart", "params_file", "use_respawn", "log_level"}
    assert arguments >= nav2 | given.keys()
    context, nodes = LaunchContext(), set()
    context.launch_configurations.update(given)

    def walk(entity: Any) -> None:
        if type(entity).__name__ in ("Node", "LifecycleNode"):
            nodes.add(entity.node_executable)
            return
        for inner in entity.visit(context) or []:
            walk(inner)

    walk(described)
    assert nodes == starts
