"""``jepa-runtime profile``."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from jepa_runtime.bundle import Tolerance
from jepa_runtime.cli import main
from jepa_runtime.commands import profile as profile_command
from jepa_runtime.commands import profile_passes
from jepa_runtime.commands.arguments import open_console
from jepa_runtime.commands.profile_view import show
from jepa_runtime.errors import BackendError
from jepa_runtime.model.parity import Parity
from jepa_runtime.profiling import cold_start
from jepa_runtime.profiling.load_generator import LoadGenerator
from jepa_runtime.profiling.profile import ColdStart, Profile, Sweep, copy_absent_reason, read_profile
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.telemetry import Monitor
from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.probes import Probe
from tests.runtime.backends.simulated_tensorrt import SimulatedTensorRT
from tests.runtime.profiles import make_profile

MODEL = Path(__file__).parents[3] / "models" / "two_rooms"
RUN = "import sys; from jepa_runtime.cli import main; sys.exit(main())"


def test_profile_writes_report_trace_and_comparable_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"profile.{name}" for name in ("json", "html", "trace")}
    outputs = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    command = ["profile", str(MODEL), "--size", "320x240", "--rate", "50", "--duration", "1"]
    assert main([*command, "--num-samples", "16", "--skip", "sweep,cold,idle", *outputs]) == 0
    profile = read_profile(files["json"])
    run = describe(profile.run)
    assert run.frames == 50
    assert profile.subject.frame_size == (320, 240)
    assert profile.subject.futures == 16
    assert {layer.graph for layer in profile.layers} == {"encoder", "predictor"}
    assert [parity.graph for parity in profile.parity] == ["encoder", "predictor", "energy"]
    assert all(parity.ok for parity in profile.parity)
    assert profile.closed_loop is not None
    (rss,) = [reading for reading in profile.readings if reading.name == "rss"]
    assert rss.times_s[0] < 0 < rss.times_s[-1], "frames that fill the history precede the run"
    assert all(reading.values or reading.absent for reading in profile.readings)
    assert "<svg" in files["html"].read_text(encoding="utf-8")
    assert files["trace"].stat().st_size > 1000
    output = capsys.readouterr().out
    assert "response" in output and "parity of the encoder" in output
    assert main(["compare", "--quantile", "p50", str(files["json"]), str(files["json"])]) == 0


@pytest.mark.slow
def test_profile_includes_times_of_the_device_clock(
    tensorrt: SimulatedTensorRT,
    toy_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jepa_runtime.backends.tensorrt.engine_store.SYSTEM_FOLDER", tmp_path / "absent")
    assert main(["build-engine", str(toy_bundle), "--num-samples", "16"]) == 0
    files = {name: tmp_path / f"profile.{name}" for name in ("json", "html")}
    command = [
        "profile",
        str(toy_bundle),
        "--engine",
        "tensorrt",
        "--num-samples",
        "16",
        "--rate",
        "50",
    ]
    outputs = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main([*command, "--duration", "1", "--skip", "sweep,cold,idle", *outputs]) == 0
    profile = read_profile(files["json"])
    assert set(profile.run.device_ms) == {"encode", "predict"}
    assert profile.run.device_ms["encode"] == [0.25] * len(profile.run.latency_ms)
    assert describe(profile.run).device["predict"].p50.value == 0.25
    assert profile.subject.engine_version == "10.3.0 on Simulated GPU"
    assert profile.environment.settings["gpu"] == "Simulated GPU"
    assert "one CUDA graph" in profile.run.absent["copy"]
    assert "device clock" in capsys.readouterr().out
    assert "encode, device clock" in files["html"].read_text(encoding="utf-8")


@pytest.mark.slow
def test_profile_with_power_sensor_reports_energy_per_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power = Probe("total power", "W", partial(next, itertools.count(1.0)))
    monkeypatch.setattr(profile_command, "Monitor", partial(Monitor, probes=[power]))
    command = ["profile", str(MODEL), "--rate", "20", "--duration", "5", "--skip", "all"]
    assert main([*command, "--json", str(tmp_path / "profile.json")]) == 0
    result = read_profile(tmp_path / "profile.json").energy
    assert result is not None and result.absent is None
    assert result.per_frame_j is not None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere"),
        ([str(MODEL), "--source", "nowhere.mp4"], "nowhere.mp4"),
        ([str(MODEL), "--engine", "openvino:NPU"], "NPU"),
        ([str(MODEL), "--precision", "fp16"], "fp16"),
        (["--attach", "world_model"], "source the workspace"),
        (["--attach", ""], "source the workspace"),
    ],
)
def test_profile_of_unusable_input_fails(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile_command, "find_spec", lambda name: None)
    assert main(["profile", "--duration", "1", "--skip", "all", *arguments]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["x", "--skip", "lunch"],
        ["x", "--size", "640"],
        ["x", "--rate", "0"],
        ["x", "--attach", "/world_model"],
        ["x", "--json", "-", "--html", "-"],
        ["x", "--trace", "-"],
        [],
    ],
)
def test_profile_with_contradicting_options_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["profile", *arguments])
    assert "usage: jepa-runtime profile" in capsys.readouterr().err


def profiled(out: Path, *arguments: str) -> Profile:
    """Return a short profile without the longer passes."""
    command = ["profile", "--duration", "0.5", "--num-samples", "16", "--json", str(out)]
    assert main([*command, "--skip", "closed,sweep,idle", *arguments]) == 0
    return read_profile(out)


def test_failed_pass_becomes_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise BackendError("the engine is gone")

    monkeypatch.setattr(profile_passes.cold_start, "measure", fail)
    monkeypatch.setattr(profile_passes.verification, "golden_parity", fail)
    profile = profiled(tmp_path / "p.json", str(MODEL))
    assert profile.run.latency_ms and profile.layers and not profile.parity
    for name in ("parity", "cold"):
        assert f"{name}: not measured: the engine is gone" in profile.notes


def test_further_passes_use_the_engine_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def measure(request: cold_start.Start, **_: Any) -> list[ColdStart]:
        started.append(request.engine)
        return []

    monkeypatch.setattr(profile_passes.cold_start, "measure", measure)
    profile = profiled(tmp_path / "p.json", str(MODEL), "--engine", "openvino:NPU,openvino:CPU")
    assert started == ["openvino:CPU"]
    assert profile.parity and profile.layers
    assert any(note.startswith("preferred, but not usable: openvino:NPU: ") for note in profile.notes)


def test_profile_of_a_model_that_computes_nan_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    broken = Parity("encoder", "int8", nan, nan, nan, Tolerance(min_cosine=0.9, max_abs=1.0))
    monkeypatch.setattr(profile_passes.verification, "golden_parity", lambda *_, **__: [broken])
    command = ["profile", str(MODEL), "--duration", "0.5", "--json", str(tmp_path / "p.json")]
    assert main([*command, "--skip", "closed,sweep,idle,cold,layers"]) == 1
    assert "encoder computes NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("verbose", [False, True])
def test_missing_sensors_take_one_line_and_verbose_states_the_reasons(
    verbose: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    show(make_profile(), open_console(), verbose=verbose)
    lines = capsys.readouterr().out.splitlines()
    reasons = {
        "package power: not available: no RAPL counters in /sys/class/powercap",
        "energy per frame: not available: the machine has no power sensor",
    }
    summary = "not available: package power, energy per frame (-v: why)"
    assert (summary in lines, reasons <= set(lines)) == (not verbose, verbose)


def test_profile_counts_frames_without_futures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    bundles.make_bundle(tmp_path / "toy", history_size=2)
    command = ["profile", str(tmp_path / "toy"), "--skip", "all", "--rate", "12.5"]
    assert main([*command, "--duration", "0.8", "--json", str(tmp_path / "p.json"), "-v"]) == 0
    profile = read_profile(tmp_path / "p.json")
    assert "predict" not in profile.run.stages_ms
    assert "use a multiple of 5 Hz" in profile.run.absent["predict"]
    assert any(note.startswith("futures in 0 of 10 frames: ") for note in profile.notes)
    assert re.search(
        r"^predict\b.*: not measured: no frame was one step", capsys.readouterr().out, re.MULTILINE
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """Replace the measurement and return its profiles."""
    result: list[Profile] = []

    def measure(*_: Any) -> Profile:
        result.append(make_profile(frames=50))
        return result[-1]

    monkeypatch.setattr(profile_command, "_measure", measure)
    return result


@pytest.mark.parametrize("option", ["--json", "--html", "--trace"])
def test_profile_with_unwritable_output_fails_before_measuring(
    measured: list[Profile], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(MODEL), option, str(tmp_path)]) == 1
    assert f"{tmp_path}: cannot be written: Is a directory" in capsys.readouterr().err
    assert not measured


def test_show_in_a_pipe_prints_title_and_caption_on_one_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist sets the width of its terminal.
    monkeypatch.delenv("COLUMNS", raising=False)
    show(make_profile(), open_console())
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("vit_s 1.0.0") and first.endswith("30 Hz, open loop")
    (caption,) = [line for line in others if line.startswith("response:")]
    assert caption.endswith("when the next one replaces it")


def test_show_formats_missing_knee_and_p999_as_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = Sweep(points=[], max_late=0.01, knee_hz=None)
    show(make_profile(frames=2000, sweep=sweep), Console(width=200))
    output = capsys.readouterr().out
    assert "sweep: no sustained rate (" in output
    assert ", p99.9 " in output and "p999" not in output


@pytest.mark.parametrize("option", [["--topic", "image"], ["--ros-param", "cpu_affinity:=[1]"]])
def test_profile_with_ros_options_but_without_ros_is_a_usage_error(
    measured: list[Profile], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["profile", str(MODEL), *option])
    assert "require --ros or --attach" in capsys.readouterr().err
    assert not measured


def test_show_omits_unknown_threads(capsys: pytest.CaptureFixture[str]) -> None:
    profile = make_profile(frames=50)
    unknown = profile.subject.model_copy(update={"threads": None, "engine_version": None})
    show(profile.model_copy(update={"subject": unknown}), Console(width=200))
    assert "8 steps; 30 Hz" in (output := capsys.readouterr().out) and "None" not in output


def test_show_prints_numbers_without_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    memory = Reading(name="memory available", unit="MB", times_s=[0.0], values=[22780.0])
    show(make_profile().model_copy(update={"readings": [memory]}), Console(width=200))
    assert "memory available 22,780 MB" in capsys.readouterr().out


def test_show_prints_medians_of_cold_starts(
    measured: list[Profile], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(MODEL)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "cold start, cache miss, medians of 2: 1340 ms (import 405, open 20, compile 890" in output


@pytest.mark.parametrize("option", ["--json", "--html", "--trace"])
def test_profile_refuses_to_overwrite_its_source(
    measured: list[Profile], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"RIFF")
    assert main(["profile", str(MODEL), "--source", str(clip), option, str(clip)]) == 1
    assert "which is read: write into another file" in capsys.readouterr().err
    assert clip.read_bytes() == b"RIFF" and not measured


def test_profile_trace_without_perfetto_fails_before_measuring(
    measured: list[Profile],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace.perfetto_trace_pb2", None)
    assert main(["profile", str(MODEL), "--trace", str(tmp_path / "p.pftrace")]) == 1
    assert "pip install 'jepa-edge[viz]'" in capsys.readouterr().err
    assert not measured


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_one_failed_output_does_not_prevent_the_others(
    measured: list[Profile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "p.html"
    assert main(["profile", str(MODEL), "--json", "/dev/full", "--html", str(page)]) == 1
    output = capsys.readouterr()
    assert "response" in output.out
    (line,) = output.err.splitlines()
    assert line.startswith("jepa-runtime: error: /dev/full: ") and "No space left on device" in line
    assert "<svg" in page.read_text(encoding="utf-8")


def test_profile_is_written_although_the_terminal_is_closed(
    measured: list[Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_command, "show", Mock(side_effect=BrokenPipeError))
    # It closes standard output, also that of the tests.
    monkeypatch.setattr("rich.console.Console.on_broken_pipe", Mock(side_effect=SystemExit(1)))
    assert main(["profile", str(MODEL), "--json", str(tmp_path / "p.json")]) == 141
    assert read_profile(tmp_path / "p.json") == measured[0]


def test_readings_end_with_the_last_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sum_up = LoadGenerator._run

    def slow(*arguments: Any) -> Any:
        time.sleep(1.5)
        return sum_up(*arguments)

    monkeypatch.setattr(LoadGenerator, "_run", slow)
    out = tmp_path / "p.json"
    brief = ["--duration", "0.5", "--skip", "all", "--json", str(out)]
    assert main(["profile", str(MODEL), *brief]) == 0
    profile = read_profile(out)
    last_s = max(reading.times_s[-1] for reading in profile.readings if reading.values)
    assert last_s == pytest.approx(profile.run.duration_s, abs=1)


def test_stopped_main_pass_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_command.Steps, "live", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    out = tmp_path / "p.json"
    brief = ["--rate", "5", "--duration", "60", "--skip", "all", "--json", str(out)]
    assert main(["profile", str(MODEL), *brief]) == 0
    profile = read_profile(out)
    assert "stopped after 1 of 300 frames" in profile.notes and len(profile.run.latency_ms) == 1


def test_ctrl_c_during_cold_starts_keeps_earlier_passes(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil", reason="psutil is not installed (extra dev)")
    out = tmp_path / "p.json"
    command = ["profile", str(MODEL), "--duration", "0.5", "--json", str(out)]
    profiling = subprocess.Popen(
        [sys.executable, "-c", RUN, *command, "--skip", "parity,closed,sweep,idle"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    parent, deadline = psutil.Process(profiling.pid), time.monotonic() + 60
    begun = False
    while not begun:
        assert profiling.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
        # Libraries start short-lived processes while they are loaded.
        with suppress(psutil.NoSuchProcess):
            commands = " ".join(part for each in parent.children() for part in each.cmdline())
            begun = "jepa_runtime.profiling.cold_start" in commands
    # As a terminal does: to all processes of the group.
    os.killpg(profiling.pid, signal.SIGINT)
    _, output = profiling.communicate(timeout=60)
    assert profiling.returncode == 0, output
    profile = read_profile(out)
    assert profile.run.latency_ms and sum(len(start.total_ms) for start in profile.cold_starts) == 1
    assert "layers: not measured: stopped before" in profile.notes


@pytest.mark.parametrize(
    ("engine", "device", "reason"),
    [
        ("openvino", "CPU", "the engine's own input buffer"),
        ("openvino", "NPU", "openvino transfers inputs and outputs of the NPU"),
        ("tensorrt", "0", "one CUDA graph"),
        ("tensorrt_rtx", "0", "one CUDA graph"),
    ],
)
def test_copy_absent_reason_depends_on_the_engine(engine: str, device: str, reason: str) -> None:
    assert reason in copy_absent_reason(engine, device)


def test_profile_of_a_model_that_reads_states_measures_predictions(arm_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    options = ["--allow-untrained", "--duration", "0.5", "--skip", "all", "--json", str(out)]
    assert main(["profile", str(arm_bundle), *options]) == 0
    profile = read_profile(out)
    assert profile.run is not None
    assert len(profile.run.stages_ms["predict"]) == len(profile.run.latency_ms)
    assert not any("futures in" in note for note in profile.notes)


def test_profile_over_ros_of_a_model_that_reads_states_is_rejected(
    arm_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arm_bundle), "--ros", "--allow-untrained", "--duration", "1"]) == 1
    assert "[profile.ros_state_unsupported]" in capsys.readouterr().err
