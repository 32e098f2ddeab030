"""The runtime is installed for the oldest Python that it names, as pip does it; its unit tests run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# As in the extra dev, but for what is for the workstation.
TOOLS = ("pytest>=8.2", "pytest-timeout", "hypothesis", "onnx", "psutil", "mcap-ros2-support", "scikit-video")
# Apart: where tests use OpenVINO itself it may leave their thread a stack for signals that is gone, see
# jepa_runtime.backends.signal_stack.
SIGNALS = "tests/runtime/test_run_command.py"
# Of updates, what reads and believes a repository, and what tries a model: on JetPack 6 this Python does it.
UPDATES = tuple(
    f"tests/update/test_{name}.py"
    for name in ("trust", "trust_floors", "client", "http_source", "gate_probe", "gate_engines")
)
# It becomes an account that may not read the folder into which all this is installed.
AS_NOBODY = "tests/runtime/doctor/test_mutilation.py::test_files_that_an_account_may_not_read_are_unknown"


def oldest() -> str:
    found = re.search(
        r'requires-python = ">=(3\.\d+),', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert found is not None
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_runtime_works_on_the_oldest_python(tmp_path: Path) -> None:
    environment, python = tmp_path / "environment", f"python{oldest()}"
    if shutil.which(python) is None:
        pytest.skip(f"there is no {python} here")
    # Of several, pyenv runs the one that is named.
    chosen = os.environ | {"PYENV_VERSION": oldest()}
    made = subprocess.run([python, "-m", "venv", environment], env=chosen, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{python} makes no environment here: {made.stderr.strip()[-300:]}")
    run = environment / "bin" / "python"
    copy = shutil.copytree(
        ROOT,
        tmp_path / "copy",
        symlinks=True,
        ignore=shutil.ignore_patterns(".venv", "out", ".*_cache", "build"),
    )
    installed = subprocess.run(
        [run, "-m", "pip", "install", "-q", f"{copy}[onnxruntime,viz]", *TOOLS],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"what it takes cannot be installed: {installed.stderr.strip()[-300:]}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    path = f"{run.parent}{os.pathsep}{clean['PATH']}"
    passed = 0
    units = ["tests/runtime", f"--ignore={SIGNALS}", f"--deselect={AS_NOBODY}"]
    for chosen_tests in (units, [SIGNALS], UPDATES):
        done = subprocess.run(
            [run, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen_tests],
            cwd=copy, env=clean | {"PATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        passed += sum(map(int, re.findall(r"(\d+) passed", done.stdout)))
    assert passed > 1000
