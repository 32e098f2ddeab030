"""The nodes on the wheels of ROS 2 Kilted, in a separate environment and workspace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Tests that run longest and cover most APIs.
TESTS = ("nodes", "pictures", "reach_two_rooms", "swap", "timers", "calibration", "world_model")
NOT_COPIED = shutil.ignore_patterns(".venv", "out", ".*_cache", "build", "install", "log", "__pycache__")


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nodes_run_on_kilted(tmp_path: Path) -> None:
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "ros-kilted-rclpy"]
    if (download := subprocess.run(fetch, cwd=tmp_path, capture_output=True, text=True)).returncode:
        pytest.skip(f"there are no wheels of Kilted: {download.stderr.strip()[-300:]}")
    copy = shutil.copytree(ROOT, tmp_path / "copy", symlinks=True, ignore=NOT_COPIED)
    # Nothing of the environment of these tests.
    names = ("HOME", "LANG", "PATH", "TMPDIR")
    clean = {name: os.environ[name] for name in names if name in os.environ} | {"JEPA_ROS": "kilted"}
    clean["PATH"] = clean["PATH"].replace(f"{ROOT / '.venv' / 'bin'}{os.pathsep}", "")
    clean["PYTHON"] = os.path.realpath(sys.executable)

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=copy, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    run("scripts/setup.sh --with ros,viz,dev")
    tests = " ".join(f"tests/ros/test_{name}.py" for name in TESTS)
    output = run(f". scripts/env.sh && python -m pytest -q -p no:cacheprovider {tests}")
    assert int(re.findall(r"(\d+) passed", output)[-1]) > 50
