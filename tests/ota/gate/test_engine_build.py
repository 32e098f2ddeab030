"""The engines of a candidate are built before its probe, in a process that may crash, hang or fail."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jepa_runtime.errors import ReleaseRejectedError
from jepa_runtime.ota.gate import engine_build
from tests.errors import code


def run(monkeypatch: pytest.MonkeyPatch, program: str, *, wall_s: float = 30.0) -> int:
    """Build with another program as the builder; return the number of heartbeats."""
    monkeypatch.setattr(engine_build, "COMMAND", (sys.executable, "-c", program))
    beats: list[None] = []
    engine_build.build(
        Path("bundle"),
        engine="tensorrt",
        precision="int8",
        wall_s=wall_s,
        heartbeat=lambda: beats.append(None),
    )
    return len(beats)


@pytest.mark.parametrize("engine", ["openvino:CPU", "openvino:NPU", "onnxruntime", "unknown"])
def test_gate_builds_no_engines_for_other_backends(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(engine_build, "COMMAND", ("/does/not/exist",))
    engine_build.build(Path("bundle"), engine=engine, wall_s=1, heartbeat=lambda: None)


def test_builder_gets_the_serving_engine_and_the_lowest_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import os, sys; assert os.nice(0) == 19\n"
        "assert sys.argv[1:] == ['build-engine', 'bundle', '--engine', 'tensorrt', '--precision', 'int8']\n"
        "while open('/proc/self/oom_score_adj').read() != '1000\\n': pass"
    )
    run(monkeypatch, program)


def test_builder_wait_notifies_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "import time; time.sleep(1)") >= 3


def test_builder_error_is_the_reason_for_the_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("gate.engine_build_failed")):
        run(monkeypatch, "import sys; print('before'); sys.exit('no memory on the GPU')")


def test_builder_that_crashes_rejects_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("gate.engine_build_failed")):
        run(monkeypatch, "import os; os.abort()")


def test_builder_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("gate.engine_build_timeout")):
        run(monkeypatch, "import time; time.sleep(3600)", wall_s=0.5)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_real_builder_names_what_is_missing(toy_bundle: Path) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("gate.engine_build_failed")):
        engine_build.build(toy_bundle, engine="tensorrt", wall_s=60, heartbeat=lambda: None)
