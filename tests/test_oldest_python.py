"""The runtime is installed for the oldest Python that it names, as pip does it; its unit tests run there.

So do those of what it takes from other packages, with the oldest of these that it names.
"""

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
SIGNALS = ("tests/runtime/test_run_command.py", "tests/runtime/test_run_process.py")
# Of updates, what reads and believes a repository, and what tries a model: on JetPack 6 this Python does it.
UPDATES = tuple(
    f"tests/update/test_{name}.py"
    for name in (
        *("trust", "trust_floors", "client", "http_source"),
        *("gate_probe", "gate_confinement", "gate_engines"),
    )
)
# What computes, reads, draws and tells by other packages.
LIBRARIES = (
    *("calibration", "pictures", "planning", "replay", "test_arguments.py"),
    *("backends/test_backends.py", "backends/test_openvino_cache.py"),
    *("test_bag_source.py", "test_bundle.py", "test_compare.py", "test_imaging.py", "test_outputs.py"),
    *("test_sources.py", "test_trace.py", "test_verification.py"),
)
# It becomes an account that may not read the folder into which all this is installed.
AS_NOBODY = "tests/runtime/doctor/test_mutilation.py::test_files_that_an_account_may_not_read_are_unknown"


def oldest() -> str:
    found = re.search(
        r'requires-python = ">=(3\.\d+),', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert found is not None
    return found[1]


def oldest_packages() -> str:
    """What is named of what is installed, as constraints for pip: the last of each oldest series."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["onnxruntime"], *extras["viz"]]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", entry) for entry in named]
    return "\n".join(f"{entry[1]}=={entry[2]}.*" for entry in found if entry is not None)


def installed(folder: Path, *options: str | Path) -> tuple[Path, Path]:
    """The oldest Python with the runtime and its tools, and the copy that it was installed from."""
    environment, python = folder / "environment", f"python{oldest()}"
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
        folder / "copy",
        symlinks=True,
        ignore=shutil.ignore_patterns(".venv", "out", ".*_cache", "build"),
    )
    done = subprocess.run(
        [run, "-m", "pip", "install", "-q", *options, f"{copy}[onnxruntime,viz]", *TOOLS],
        capture_output=True,
        text=True,
    )
    assert "ResolutionImpossible" not in done.stderr, done.stderr
    if done.returncode:
        pytest.skip(f"what it takes cannot be installed: {done.stderr.strip()[-300:]}")
    return run, copy


def passed(run: Path, copy: Path, *tests: str) -> int:
    """How many of the tests pass; none fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    path = f"{run.parent}{os.pathsep}{clean['PATH']}"
    done = subprocess.run(
        [run, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy, env=clean | {"PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return sum(map(int, re.findall(r"(\d+) passed", done.stdout)))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_runtime_works_on_the_oldest_python(tmp_path: Path) -> None:
    run, copy = installed(tmp_path)
    units = ("tests/runtime", *(f"--ignore={file}" for file in SIGNALS), f"--deselect={AS_NOBODY}")
    assert sum(passed(run, copy, *tests) for tests in (units, SIGNALS, UPDATES)) > 1000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_oldest_packages_that_are_named_serve_it(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(oldest_packages(), encoding="utf-8")
    run, copy = installed(tmp_path, "--constraint", constraints)
    assert passed(run, copy, *(f"tests/runtime/{name}" for name in LIBRARIES), *UPDATES) > 500
