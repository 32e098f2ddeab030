"""Imports point one way, and what a robot runs needs nothing of the workstation or of ROS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_contracts_on_imports_are_kept() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed (extra dev)")
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runtime_starts_where_torch_and_ros_cannot_be_imported() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'rclpy', 'jepa_export', 'onnx', 'onnxruntime', 'matplotlib', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import jepa_runtime.cli, jepa_runtime.recording.definitions, jepa_runtime.planning.cem\n"
        "from jepa_runtime.backends import create_backend\n"
        "create_backend('openvino:CPU')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
