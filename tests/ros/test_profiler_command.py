"""``jepa-runtime profile --ros``: additions to the profiler's run, exit code and shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="psutil is not installed (extra dev)")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import psutil
from jepa_ros.profiler.options import parse
from jepa_ros.profiler.profile_result import sweep_rates

from jepa_runtime.cli import main as jepa_runtime
from jepa_runtime.commands import profile as profile_command
from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.profile import read_profile
from tests.errors import code
from tests.runtime.profiles import make_profile

pytestmark = pytest.mark.ros

RUN = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
SHORT = ["profile", "--source", "two_rooms", "--rate", "20", "--duration", "2"]
MISSING = "closed, cold, idle, layers: not measured: not available over ROS 2"


def test_profile_measures_parity_of_the_served_model_and_reports_what_it_skipped(
    two_rooms_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    command = [*SHORT, "--ros", str(two_rooms_bundle), "--json", str(out), "--num-samples", "16"]
    assert (
        jepa_runtime(
            [*command, "--ros-param", "threads:=2", "--ros-param", "max_miss_run:=50", "--skip", "sweep"]
        )
        == 0
    )
    profile = read_profile(out)
    assert [parity.graph for parity in profile.parity] == ["encoder", "predictor", "energy"]
    assert all(parity.ok for parity in profile.parity)
    assert MISSING in profile.notes
    assert "input buffer" in profile.run.absent["copy"]
    assert profile.subject.threads == 2
    given = {name: value for name, value in profile.environment.settings.items() if "parameter" in name}
    assert given == {"parameter max_miss_run": "50"}


@pytest.mark.slow
def test_sweep_raises_rates_until_the_graph_cannot_keep_up(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_command, "SWEEP_S", 0.5)
    out = tmp_path / "p.json"
    command = [*SHORT, "--ros", str(toy_bundle), "--allow-untrained", "--json", str(out)]
    assert jepa_runtime(command) == 0
    profile = read_profile(out)
    assert len(profile.run.scheduled_s) == 40 and MISSING in profile.notes
    sweep = profile.sweep
    assert sweep is not None and len(sweep.points) > 2
    rates = [point.rate_hz for point in sweep.points]
    assert rates == sorted(rates) and rates[0] == 20
    for point in sweep.points:
        assert point.frames == max(1, round(0.5 * point.rate_hz)) and point.max_ms is not None


@contextmanager
def sweeping(out: Path, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the second rate of its sweep."""
    command = [*SHORT, "--ros", str(bundle), "--allow-untrained", "--json", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as profiling:  # fmt: skip
        assert profiling.stdout is not None
        output = ""
        while output.count("sweep at") < 2 and (line := profiling.stdout.readline()):
            output += line
        assert output.count("sweep at") == 2, output
        yield profiling


@pytest.mark.slow
def test_sweep_that_is_stopped_keeps_the_run_and_the_finished_rates(toy_bundle: Path, tmp_path: Path) -> None:
    with sweeping(tmp_path / "p.json", toy_bundle) as profiling:
        profiling.terminate()
        output, _ = profiling.communicate(timeout=30)
    assert profiling.returncode == 0, output
    profile = read_profile(tmp_path / "p.json")
    assert len(profile.run.scheduled_s) == 40
    assert profile.sweep is not None and len(profile.sweep.points) == 1
    assert "sweep: stopped: the knee may be higher" in profile.notes


@pytest.mark.parametrize(
    ("latency_ms", "thread_ms", "rates"),
    [
        (25.0, 10.0, [20.0, 25.5, 32.5, 41.5, 52.9, 67.6, 86.2, 110.0]),
        # The sweep begins with the rate of the run, even if much more is possible.
        (4.0, 1.0, [30.0, 50.2, 84.0, 140.5, 235.0, 393.1, 657.6, 1100.0]),
        # The only rates with a whole number of images in a step of 0.2 s.
        (110.0, 100.0, [5.0, 10.0]),
        (3000.0, 2900.0, [5.0]),
    ],
)
def test_sweep_rates_follow_image_time_and_model_step(
    latency_ms: float, thread_ms: float, rates: list[float]
) -> None:
    # One image has no stage times, one no prediction.
    stages = {
        "wait": [9.0] * 5,
        "encode": [0.0, 0.5, *[thread_ms - 0.1] * 3],
        "predict": [0.0, 0.0, *[0.1] * 3],
        "delivery": [5.0] * 5,
    }
    changes = {"stages_ms": stages, "latency_ms": [latency_ms] * 5, "rate_hz": 30.0}
    run = make_profile(frames=5).run.model_copy(update=changes)
    assert sweep_rates(run, 0.2) == pytest.approx(rates, abs=0.11)


def test_sweep_without_stage_times_has_no_rates() -> None:
    run = make_profile(frames=3).run
    for stages in ({}, {"receive": [1.0] * 3}, {"encode": [0.0] * 3}):
        with pytest.raises(ProfileError, check=code("profile.no_stage_times")):
            sweep_rates(run.model_copy(update={"stages_ms": stages}), 0.2)


@pytest.mark.slow
def test_sweep_with_a_dead_node_keeps_earlier_measurements(toy_bundle: Path, tmp_path: Path) -> None:
    with sweeping(tmp_path / "p.json", toy_bundle) as profiling:
        below = psutil.Process(profiling.pid).children(recursive=True)
        next(process for process in below if "num_samples:=0" in process.cmdline()).kill()
        output, _ = profiling.communicate(timeout=60)
    assert profiling.returncode == 1, output
    profile = read_profile(tmp_path / "p.json")
    assert len(profile.run.scheduled_s) == 40
    assert profile.sweep is not None and len(profile.sweep.points) == 1
    (note,) = [note for note in profile.notes if note.startswith("sweep: ")]
    assert "Hz could not be measured: world_model ended with exit code -9" in note


def test_sweep_of_a_node_in_use_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--attach", "/world_model", "--source", "two_rooms", "--output", "o", "--sweep", "4"])
    assert "--sweep requires a started world model" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["max_mis_run:=50", "max_miss_run=50", "precision:=int8"])
def test_profile_with_an_invalid_node_parameter_is_rejected(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["b", "--source", "two_rooms", "--output", "o", "--param", given])
    stderr = capsys.readouterr().err
    assert "max_miss_run, " in stderr and stderr.rstrip().endswith(f"got {given}")


@pytest.mark.parametrize("option", ["--attach", "--topic"])
@pytest.mark.parametrize("name", ["", "-1", "no name"])
def test_profile_with_an_invalid_ros_name_is_rejected(
    option: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse([f"{option}={name}", "--source", "two_rooms", "--output", "o"])
    assert f"{option}: must be a ROS 2 name such as /robot/world_model" in capsys.readouterr().err


def test_profile_of_a_running_node_reports_that_parity_is_missing(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_graph.observer.context.get_domain_id()))
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.until(lambda: ros_graph.log("world_model").read_text(), "the world model")
    command = [*SHORT, "--attach", "/world_model", "--topic", "image", "--skip", "sweep"]
    assert jepa_runtime([*command, "--json", str(tmp_path / "p.json")]) == 0
    notes = read_profile(tmp_path / "p.json").notes
    assert MISSING in notes and not any("sweep" in note for note in notes)
    assert any(note.startswith("parity: not measured: the bundle of a running node") for note in notes)


def started(out: Path, bundle: Path) -> tuple[subprocess.Popen[str], list[Any]]:
    """Run the command until it measures for a minute; return it and all its child processes."""
    command = [*SHORT[:-1], "60", "--ros", str(bundle), "--allow-untrained", "--json", str(out)]
    profiling = subprocess.Popen(
        [sys.executable, "-c", RUN, *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert profiling.stdout is not None and "measuring 60 s" in (line := profiling.stdout.readline()), line
    time.sleep(1)
    return profiling, psutil.Process(profiling.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_stopped_profile_keeps_its_measurements_and_leaves_no_process(
    toy_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    profiling, below = started(tmp_path / "p.json", toy_bundle)
    # A terminal signals the whole group, systemd only the process.
    (os.killpg if number == signal.SIGINT else os.kill)(profiling.pid, number)
    output, _ = profiling.communicate(timeout=30)
    assert profiling.returncode == 0, output
    profile = read_profile(tmp_path / "p.json")
    assert profile.run.latency_ms and any("stopped after" in note for note in profile.notes)
    assert "parity: not measured: stopped before" in profile.notes
    assert len(below) == 3 and not any(process.is_running() for process in below)


@pytest.mark.slow
def test_profile_of_a_dead_node_is_written_and_exits_with_status_1(toy_bundle: Path, tmp_path: Path) -> None:
    profiling, below = started(tmp_path / "p.json", toy_bundle)
    next(process for process in below if "num_samples:=0" in process.cmdline()).kill()
    time.sleep(1)
    profiling.terminate()
    output, _ = profiling.communicate(timeout=30)
    assert profiling.returncode == 1, output
    notes = read_profile(tmp_path / "p.json").notes
    assert any("world_model ended with exit code -9" in note for note in notes)
