"""The registry of engines, with an engine of another package that only its entry point makes known."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.backends import Engine, engine_devices, engines, find_engine, reference_engine
from jepa_runtime.backends.registry import engines_for, split_engine
from jepa_runtime.errors import BackendError
from tests.errors import code
from tests.toy_packages import install_toy_engine, run, run_program


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the toy engine."""
    return install_toy_engine(tmp_path_factory)


def jepa_runtime(site: Path, *arguments: str | Path) -> tuple[Any, str]:
    """Run a command of ``jepa-runtime``, and return its JSON output and its text output."""
    done = run_program(site, "jepa_runtime", *arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_engines_lists_those_of_the_package() -> None:
    declared = {engine.name: engine for engine in engines()}
    assert set(declared) >= {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"}
    assert all(isinstance(engine, Engine) and engine.description for engine in declared.values())
    assert find_engine("toy") is None


def test_engines_for_a_target_lists_its_own_engines_first() -> None:
    assert [(engine.name, device) for engine, device in engines_for("onnx")][:2] == [
        ("onnxruntime", "CPU"),
        ("openvino", "CPU"),
    ]
    assert [engine.name for engine, _ in engines_for("tensorrt")] == ["tensorrt", "tensorrt_rtx"]


def test_split_engine_uses_the_default_device() -> None:
    assert split_engine("tensorrt") == ("tensorrt", "0")
    assert split_engine("openvino:NPU") == ("openvino", "NPU")
    assert split_engine("unknown") == ("unknown", "CPU")


def test_engine_of_another_package_runs_a_source(site: Path, toy_bundle: Path) -> None:
    result, text = jepa_runtime(
        site,
        *("run", "--engine", "toy", toy_bundle, "--source", "two_rooms?seed=1"),
        *("--rate", "5", "--duration", "1"),
    )
    assert result["frames_processed"] > 0 and result["frames_failed"] == 0
    assert "fp32 on toy (CPU)" in text


def test_engine_of_another_package_reproduces_the_golden_outputs(site: Path, toy_bundle: Path) -> None:
    result, _ = jepa_runtime(site, "verify", toy_bundle, "--engine", "toy", "--precision", "fp32")
    checked = {(each["target"], each["precision"]): each for each in result["variants"]}
    assert checked["onnx", "fp32"]["status"] == "checked" and checked["onnx", "fp32"]["engine"] == "toy"


def test_doctor_lists_the_engines_of_other_packages(site: Path) -> None:
    report = json.loads(run_program(site, "jepa_runtime", "doctor", "--json", "-").stdout)
    (finding,) = [each for each in report["findings"] if each["check"] == "engine.plugins"]
    assert finding["summary"] == "other packages provide the engines toy (jepa-edge-toy-engine 0.1)"
    (finding,) = [each for each in report["findings"] if each["check"] == "engine.plugin_packages"]
    assert finding["summary"] == f"onnx {version('onnx')} is installed"


def test_environment_has_the_versions_of_engines_of_other_packages(site: Path) -> None:
    program = "import json; from jepa_runtime.telemetry.environment import package_versions as found"
    versions = json.loads(run(site, "-c", f"{program}; print(json.dumps(found()))").stdout)
    assert (versions["jepa-edge-toy-engine"], versions["onnx"]) == ("0.1", version("onnx"))
    assert versions["openvino"] == version("openvino")


def test_engine_devices_begin_with_the_default_engine() -> None:
    assert engine_devices()[:4] == ["openvino:CPU", "openvino:GPU", "openvino:NPU", "onnxruntime:CPU"]
    assert {"tensorrt:0", "tensorrt_rtx:0"} <= set(engine_devices())


def test_reference_engine_is_that_of_the_registry() -> None:
    assert [reference_engine(target) for target in ("openvino", "onnx", "npu", "tensorrt")] == [
        "openvino:CPU", "onnxruntime:CPU", "openvino:CPU", "onnxruntime:CPU"
    ]  # fmt: skip
    with pytest.raises(BackendError, check=code("backend.no_reference")):
        reference_engine("unknown")


def test_unknown_engine_lists_those_of_other_packages(site: Path) -> None:
    program = "from jepa_runtime.backends import create_backend; create_backend('unknown')"
    done = run(site, "-c", program)
    assert "toy (installed)" in done.stderr.splitlines()[-1]


def test_broken_engine_of_another_package_does_not_affect_the_others(site: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(site, tmp_path / "site"))
    (broken / "toy_engine.py").write_text("raise RuntimeError('damaged')\n")
    program = (
        "from jepa_runtime.backends import create_backend, engines\n"
        "print([engine.name for engine in engines()])\n"
        "create_backend('openvino:CPU').close()\n"
        "create_backend('toy')\n"
    )
    done = run(broken, "-c", program)
    assert "openvino" in done.stdout and "toy" not in done.stdout
    assert "jepa-edge-toy-engine cannot be loaded: damaged" in done.stderr.splitlines()[-1]
