"""The documentation site: its tutorials run as they are written, and it builds without a warning."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import jepa_runtime.errors
from tests.scripts import ROOT

TUTORIALS = [
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    ROOT / "docs" / "how-to" / "teach-and-repeat.md",
]


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: str(page.stem))
def test_tutorial_commands_succeed(page: Path) -> None:
    """Run the ``bash`` blocks in order; ``console`` blocks need a device or an installed ROS 2.

    A demo ends with an error if the robot was stopped, as it must be if the machine stalls for longer than a
    time limit of the robot. The commands are then run again.
    """
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    done = run_in_bash("\n".join(blocks))
    if done.returncode != 0 and "robot stopped" in done.stderr:
        done = run_in_bash("\n".join(blocks))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def run_in_bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(300)
def test_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "reference" / "errors" / "index.html").is_file()
    for module in (jepa_runtime.errors, *packages()):
        package = module.__name__.removeprefix("jepa_runtime.")
        page = (tmp_path / "reference" / "python" / package / "index.html").read_text("utf-8")
        missing = [name for name in module.__all__ if f'id="{module.__name__}.{name}"' not in page]
        assert not missing, f"{package} does not describe {missing}"


def packages() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(jepa_runtime.__path__, "jepa_runtime."):
        if module.ispkg and hasattr(package := importlib.import_module(module.name), "__all__"):
            yield package


@pytest.fixture
def error_codes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("error_codes")


def test_error_codes_are_snake_case_with_an_area(error_codes: ModuleType) -> None:
    codes = {raised.code for raised in error_codes.raised_errors()}
    assert codes
    assert not [code for code in codes if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", code)]


def test_every_raised_error_has_a_code(error_codes: ModuleType) -> None:
    assert list(error_codes.uncoded_raises()) == []
