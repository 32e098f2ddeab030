"""Imports follow the layers, and the runtime imports nothing of jepa-export or ROS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_import_contracts_are_kept() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed (extra dev)")
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_runtime_imports_without_torch_and_ros() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'rclpy', 'jepa_export', 'onnx', 'onnxruntime', 'matplotlib', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import jepa_runtime.cli, jepa_runtime.ros_messages.definitions, jepa_runtime.planning.cem\n"
        "from jepa_runtime.backends import create_backend\n"
        "create_backend('openvino:CPU')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("jepa_runtime.backends.openvino.backend", "openvino"),
        ("jepa_runtime.backends.onnxruntime.backend", "onnxruntime"),
        ("jepa_export.targets.openvino", "nncf"),
        ("jepa_export.targets.tensorrt", "onnxruntime"),
    ],
)
def test_openvino_telemetry_is_not_sent(module: str, needs: str, tmp_path: Path) -> None:
    """By default OpenVINO reports to Google Analytics, from a fork of the process, and ONNX Runtime to
    Microsoft; each stores an identity in the home folder, except on known machines of continuous
    integration."""
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    program = (
        "import importlib, os, sys\n"
        "sys.addaudithook(lambda event, _: event == 'urllib.Request' and os.write(2, b'a request'))\n"
        f"importlib.import_module({module!r})\n"
    )
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "") and not list(tmp_path.iterdir())


def test_onnxruntime_telemetry_is_not_sent(toy_bundle: Path, tmp_path: Path) -> None:
    """Since 1.29 ONNX Runtime reports graph hashes to Microsoft from a store in the home folder."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnxruntime)")
    program = (
        "import sys\n"
        "from jepa_runtime import WorldModel\n"
        "WorldModel.open(sys.argv[1], engine='onnxruntime', allow_untrained=True).close()\n"
    )
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run(
        [sys.executable, "-c", program, str(toy_bundle)],
        env=environment | {"HOME": str(tmp_path)},
        check=True,
    )
    assert not list(tmp_path.iterdir())
