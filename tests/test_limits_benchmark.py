"""Limits of the runtime: measurements compared with limits, and the output of benchmarks/limits.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jepa_runtime.errors import ProfileError
from tests.runtime.profiles import make_profile, make_run
from tests.scripts import load, script, skip_without_ros


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    """Import limits.py, which needs ROS."""
    skip_without_ros()
    return load("limits")


class Quiet:
    """Fake the record of when the machine was quiet."""

    def __init__(self, but: slice) -> None:
        self.but = but

    def quiet(self, begin_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
        assert (end_s > begin_s).all()
        is_quiet = np.ones(len(begin_s), bool)
        is_quiet[self.but] = False
        return is_quiet


@pytest.mark.ros
@pytest.mark.parametrize(
    ("disturbed", "dropped", "met"),
    [(slice(0), 60, False), (slice(9_900, 10_030), 30, False), (slice(9_900, 10_100), 0, True)],
)
def test_dropped_images_count_in_the_tail_while_the_machine_is_quiet(
    limits: ModuleType, disturbed: slice, dropped: int, met: bool
) -> None:
    run = make_run(frames=20_000)
    lost = range(10_000, 10_060)
    received = [index for index in range(len(run.scheduled_s)) if index not in lost]
    stalled = run.model_copy(
        update={
            "scheduled_s": [run.scheduled_s[index] for index in received],
            "latency_ms": [run.latency_ms[index] for index in received],
            "stages_ms": {},
            "dropped_s": [run.scheduled_s[index] for index in lost],
            "failed_s": [],
        }
    )
    due_s = 7.0 + limits.scheduled_frames(stalled)
    limits_by_name = {
        each.metric: each for each in limits.tailed(stalled, due_s, Quiet(disturbed), np.ones(100), "images")
    }
    assert limits_by_name["images dropped while it was quiet"].value == dropped
    assert limits_by_name["images dropped"].value == 60 and limits_by_name["images dropped"].met
    tail = limits_by_name["p99.9 / p50 while the machine was quiet"]
    assert (tail.met, limits_by_name["images dropped while it was quiet"].met) == (met, met)
    assert tail.samples == f"{len(due_s) - len(due_s[disturbed])} of {len(due_s)} images"
    assert limits_by_name["p99.9 / p50 of all"].value > 10 and tail.value > (1 if met else 10)


@pytest.mark.ros
def test_machine_that_is_never_quiet_has_no_tail(limits: ModuleType) -> None:
    run = make_run(frames=2000)
    with pytest.raises(ProfileError, match="quiet for only 45% of the images"):
        limits.tailed(run, limits.scheduled_frames(run), Quiet(slice(1100)), np.ones(100), "images")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("frames", "without", "unknown"),
    [(50, (), "p99 of the response"), (1800, ("decode",), "p50 of decode")],
)
def test_too_few_samples_are_an_error_instead_of_zero(
    limits: ModuleType, frames: int, without: tuple[str, ...], unknown: str
) -> None:
    run = make_run(frames=frames)
    names = [name for name in (*limits.OURS, *limits.THEIRS) if name not in without]
    stages = {name: [1.0] * len(run.scheduled_s) for name in names}
    profile = make_profile(run=run.model_copy(update={"stages_ms": stages}))
    setting = limits.Setting(Path(), 1, 30.0, Path())
    with pytest.raises(ProfileError, match=f"{unknown} is not known"):
        limits.served(setting, profile, 1.0)


@pytest.mark.ros
def test_time_outside_the_stages_counts_as_ours(limits: ModuleType) -> None:
    run = make_run(frames=1800)
    stages = {name: [0.1] * len(run.scheduled_s) for name in (*limits.OURS, *limits.THEIRS)}
    run = run.model_copy(update={"stages_ms": stages, "latency_ms": [3.0] * len(run.scheduled_s)})
    rows = limits.served(limits.Setting(Path(), 1, 30.0, Path()), make_profile(run=run), 1.0)
    (ours,) = [row for row in rows if row.metric.startswith("ours")]
    assert ours.value == pytest.approx(3.0 - 0.1 * len(limits.THEIRS)) and not ours.met


@pytest.mark.ros
def test_growth_is_the_rise_of_a_line_after_the_first_tenth(limits: ModuleType) -> None:
    times = np.linspace(0, 60, 100)
    assert limits.growth(times, 2 + 0.5 * times) == pytest.approx(0.5 * (times[-1] - times[10]))
    steady = np.full(100, 5.0)
    steady[:10], steady[54] = 500.0, 50.0
    assert abs(limits.growth(times, steady)) < 0.1
    assert limits.growth([0.0, 1.0], [0.0, 100.0]) == 0.0


@pytest.mark.ros
@pytest.mark.parametrize(
    ("value", "limit", "met"), [(1.5, 1.5, True), (1.51, 1.5, False), (0, 0, True), (9.0, None, True)]
)
def test_limit_is_met_up_to_and_including_its_value(
    limits: ModuleType, value: float, limit: float, met: bool
) -> None:
    assert limits.Limit("serving", "what", value, limit, "ms", "9 images").met is met


def test_results_of_skipped_checks_are_retained_for_the_same_model_and_settings(
    tmp_path: Path,
) -> None:
    module, path = load("peers.limit"), tmp_path / "limits.json"

    def written(created: str, rate_hz: float, check: str, value: float) -> list[tuple[str, float, str, str]]:
        report = {
            "created": created,
            "environment": {"cpu": f"that of {created}"},
            "bundle": {"id": "vit_s", "version": "1.0.0", "sha256": created},
            "camera_frame": (640, 480),
            "rate_hz": rate_hz,
        }
        report["limits"] = module.rows([module.Limit(check, "p99", value, 33.0, "ms", "9")], report, path)
        path.write_text(json.dumps(report))
        assert all(row["met"] for row in report["limits"])
        return [(row["check"], row["value"], row["created"], row["cpu"]) for row in report["limits"]]

    serving = ("serving", 20.0, "monday", "that of monday")
    assert written("monday", 30.0, "serving", 20.0) == [serving]
    assert written("tuesday", 30.0, "tail", 9.0) == [serving, ("tail", 9.0, "tuesday", "that of tuesday")]
    again = [serving, ("tail", 8.0, "friday", "that of friday")]
    assert written("friday", 30.0, "tail", 8.0) == again
    assert len(written("sunday", 60.0, "tail", 8.0)) == 1


@pytest.mark.ros
@pytest.mark.parametrize("dropped", [0, 1])
def test_exit_status_of_limits_is_its_verdict(
    limits: ModuleType, dropped: int, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    measured = [
        limits.Limit("serving", "images dropped", dropped, 0, "images", "9 images"),
        limits.Limit("serving", "p50 of encode", 99.0, None, "ms", "9 images"),
    ]
    monkeypatch.setattr(limits, "serving", lambda *_: measured)
    monkeypatch.setattr(limits, "prepare_environment", lambda **_: None)
    out = tmp_path / "new" / "limits.json"
    assert limits.main(["--bundle", str(toy_bundle), "--checks", "serving", "--json", str(out)]) == dropped
    assert [limit["met"] for limit in json.loads(out.read_text())["limits"]] == [not dropped, True]
    assert ("missed" in capsys.readouterr().out) is bool(dropped)


@pytest.mark.ros
def test_impossible_measurement_does_not_affect_the_others(
    limits: ModuleType, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def noisy(*_: object) -> None:
        raise ProfileError("the machine was not quiet")

    monkeypatch.setattr(limits, "tail", noisy)
    for check in ("serving", "start"):
        measured = [limits.Limit(check, "p50", 9.0, 99.0, "ms", "9 images")]
        monkeypatch.setattr(limits, check, lambda *_, measured=measured: measured)
    monkeypatch.setattr(limits, "prepare_environment", lambda **_: None)
    out = tmp_path / "limits.json"
    command = ["--bundle", str(toy_bundle), "--json", str(out), "--checks", "serving", "tail", "start"]
    assert limits.main(command) == 2
    assert [limit["check"] for limit in json.loads(out.read_text())["limits"]] == ["serving", "start"]
    assert capsys.readouterr().err == "limits: tail: the machine was not quiet\n"


@pytest.mark.ros
def test_limits_reports_its_checks_and_failures(limits: ModuleType, tmp_path: Path) -> None:
    help_text = script("limits", "--help")
    assert help_text.returncode == 0
    assert all(
        name in help_text.stdout for name in ("serving", "tail", "neighbor", "start", "cameras", "soak")
    )
    done = script("limits", "--bundle", str(tmp_path / "nowhere"), "--json", str(tmp_path / "out.json"))
    assert done.returncode == 2 and done.stderr.startswith("limits: ") and "nowhere" in done.stderr
    assert list(tmp_path.iterdir()) == []
