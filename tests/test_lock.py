"""requirements/ pins the dependencies of pyproject.toml, with hashes, for each supported Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

packaging = pytest.importorskip("packaging.requirements", reason="packaging is not installed")
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


def pins(name: str) -> list[Any]:
    """Return the requirements in a file, without their hashes."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    named = [line.removesuffix(" \\") for line in lines if line and not line.startswith((" ", "#"))]
    return [packaging.Requirement(line) for line in named]


def locked(name: str, python: str) -> dict[str, str]:
    """Return versions by package on Linux for x86-64."""
    system = {
        "python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux",
        "platform_machine": "x86_64", "implementation_name": "cpython", "platform_system": "Linux",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    files = {"base", name} | ({"torch-cuda"} if name == "export" else set())
    listed = [pin for file in files for pin in pins(file)]
    fitting = [pin for pin in listed if pin.marker is None or pin.marker.evaluate(system)]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in fitting}


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_every_range(python: str) -> None:
    """A range changed without running scripts/lock.py fails."""
    requested = project()["project"]
    for extra, lines in {"base": requested["dependencies"], **requested["optional-dependencies"]}.items():
        versions = locked(extra, python)
        for line in lines:
            requirement = packaging.Requirement(line)
            system = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
            if requirement.marker is not None and not requirement.marker.evaluate(system):
                continue
            name = re.sub("[-_.]+", "-", requirement.name).lower()
            assert requirement.specifier.contains(versions.get(name, "0")), (
                f"{extra}: {line}, locked is {versions.get(name)}: run scripts/lock.py"
            )


@pytest.mark.parametrize("file", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_every_pin_has_hashes(file: str) -> None:
    blocks = re.split(r"^(?=[a-z])", (FOLDER / f"{file}.txt").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert blocks and all("--hash=sha256:" in block for block in blocks)


def test_one_version_of_a_package_is_locked_per_python() -> None:
    """Files of several extras are installed together."""
    for python in PYTHONS:
        seen: dict[str, str] = {}
        for path in FOLDER.glob("*.txt"):
            for name, version in locked(path.stem, python).items():
                assert seen.setdefault(name, version) == version


def test_build_group_equals_the_build_requirements() -> None:
    content = project()
    assert content["dependency-groups"]["build"] == content["build-system"]["requires"]


def test_downloads_counts_each_package_once_and_no_installed_one(tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    lines = (
        "# 12.0 MB on x86_64, 12.0 MB on aarch64\nno-such-package==1.0 \\\n    --hash=sha256:00",
        "# 50.0 MB on x86_64, 50.0 MB on aarch64\nother==1.0 ; python_version < '3' \\\n    --hash=sha256:00",
        f"# 7.0 MB on x86_64, 7.0 MB on aarch64\npytest=={pytest.__version__} \\\n    --hash=sha256:00",
    )
    listed.write_text("\n".join(lines) + "\n")
    command = [sys.executable, ROOT / "scripts" / "downloads.py", listed, listed]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "12\n"
