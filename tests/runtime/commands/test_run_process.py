"""``jepa-runtime run`` with a real bundle in a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa_runtime.cli import main
from tests.runtime.recording.test_mcap_writer import by_mcap_ros2


def command(*arguments: str) -> list[str]:
    start = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    return [sys.executable, "-c", start, "run", *arguments]


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_run_works_on_each_engine(toy_bundle: Path, tmp_path: Path, engine: str) -> None:
    if engine.startswith("onnxruntime"):
        pytest.importorskip("onnxruntime")
    path, recording = tmp_path / "run.json", tmp_path / "run.mcap"
    arguments = [str(toy_bundle), "--source", "two_rooms", "--duration", "1", "--engine", engine]
    done = subprocess.run(
        command(*arguments, "--json", str(path), "--mcap", str(recording), "--num-samples", "5"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["frames_published"] == 30
    assert result["frames_failed"] == 0 and result["error"] is None
    assert result["frames_processed"] >= 15
    assert (result["model"]["id"], result["model"]["engine"]) == ("toy", engine.partition(":")[0])
    assert len(result["model"]["sha256"]) == 64
    assert list(by_mcap_ros2(recording)["/world_model/futures"].latents.shape) == [5, 4, 2, 8]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_signal_returns_0(toy_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.mcap"
    arguments = [str(toy_bundle), "--source", "two_rooms", "--mcap", str(path), "--json", "-"]
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        partial = tmp_path / "run.mcap.partial"
        deadline = time.monotonic() + 30
        while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err.decode()
    assert json.loads(out)["frames_processed"] > 5
    assert path.exists() and not partial.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file or folder"),
        (["--source", "two_rooms", "--engine", "abacus:CPU"], "abacus"),
        (["--source", "two_rooms", "--precision", "int8"], "int8"),
        (["--source", "two_rooms", "--num-samples", "0"], "num_samples must be at least 1"),
        (["--source", "two_rooms", "--threads", "0"], "threads must be from 1 to 1024"),
    ],
)
def test_run_error_is_one_line_and_returns_1(
    toy_bundle: Path, arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(toy_bundle), *arguments]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("jepa-runtime: ") and complaint in line


def test_run_process_error_is_one_line_and_returns_1() -> None:
    arguments = ["missing", "--source", "two_rooms"]
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("jepa-runtime: ") and "missing" in line
