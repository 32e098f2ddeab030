"""Write requirements/: version and hashes of every package, for all supported Python versions and machines.

    pip install uv && python scripts/lock.py [--as-of 2026-11-30]

One resolution covers the project with all its extras. Each extra has a file with what it needs in addition to
base.txt. PyTorch is separate: torch-cuda.txt holds PyPI's build and the CUDA libraries that only this build
needs; a CPU build replaces the whole file. The comment above a pin is the size of the download;
scripts/downloads.py adds these up.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tomllib
from packaging.markers import Marker
from packaging.tags import Tag, cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
# The newest glibc that a supported system has: Ubuntu 22.04 (JetPack 6).
_GLIBC = 35
_PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; (.+?))?(?: \\)?$")

Blocks = dict[str, str]


def main() -> int:
    """Run the command."""
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add(
        "--as-of",
        type=datetime.date.fromisoformat,
        default=today,
        metavar="DATE",
        help="newest upload date of the packages (default: today)",
    )
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        print("lock: error: uv is not installed: pip install uv", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        project = _copy(Path(scratch))
        _uv(project, "lock", "--exclude-newer", str(arguments.as_of + datetime.timedelta(days=1)))
        files = _files(project)
        lock = tomllib.loads((project / "uv.lock").read_text(encoding="utf-8"))
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*.txt"):
        old.unlink()
    released = [package for package in lock["package"] if "version" in package]
    wheels = {(package["name"], package["version"]): package for package in released}
    for name, blocks in files.items():
        lines = [f"# Written by scripts/lock.py, packages as of {arguments.as_of}.\n"]
        for pin, block in blocks.items():
            sizes = (f"{_size(pin, wheels, machine) / 1e6:.1f} MB on {machine}" for machine in MACHINES)
            lines += [f"# {', '.join(sizes)}\n", block]
        (TARGET / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        print(f"lock: requirements/{name}.txt: {len(blocks)} packages")
    return 0


def _copy(folder: Path) -> Path:
    """Copy what uv reads of this project into a folder for its own lock file."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "runtime/jepa_runtime/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "export").mkdir()
    return folder


def _uv(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["uv", *arguments, "--no-config", "--project", project], cwd=project, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"lock: error: uv {arguments[0]} failed, see above")
    return done.stdout


def _files(project: Path) -> dict[str, Blocks]:
    """Return the content of each file: what pip reads of a package, by its pin."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    base = _export(project)
    cuda = _cuda_packages(project)
    without = [option for name in cuda for option in ("--prune", name)]
    files = {"build": _export(project, "--only-group", "build"), "base": base}
    for extra in extras:
        pinned = _export(project, "--extra", extra, *without, "--no-emit-package", "torch")
        files[extra] = {pin: block for pin, block in pinned.items() if pin not in base}
    known = base | files["export"]
    files["torch-cuda"] = {
        pin: block for pin, block in _export(project, "--extra", "export").items() if pin not in known
    }
    return files


def _export(project: Path, *options: str) -> Blocks:
    plain = ("--quiet", "--frozen", "--no-emit-project", "--no-header", "--no-annotate")
    written = _uv(project, "export", *plain, *options)
    blocks: Blocks = {}
    for line in written.splitlines(keepends=True):
        if not line.startswith(" "):
            pin = line.strip()
            blocks[pin] = ""
        blocks[pin] += line
    return blocks


def _cuda_packages(project: Path) -> list[str]:
    """Return the Linux-only dependencies of PyPI's torch: CUDA and its compilers."""
    lock = tomllib.loads((project / "uv.lock").read_text(encoding="utf-8"))
    torch = next(package for package in lock["package"] if package["name"] == "torch")
    needed = torch["dependencies"]
    return sorted({entry["name"] for entry in needed if "sys_platform" in entry.get("marker", "")})


def _size(pin: str, wheels: dict[tuple[str, str], dict[str, Any]], machine: str) -> int:
    """Return the download size [bytes], for the Python version with the largest one."""
    found = _PIN.match(pin)
    if found is None:
        raise SystemExit(f"lock: error: cannot read the pin {pin!r}")
    package = wheels[found[1], found[2]]
    named = [
        (parse_wheel_filename(wheel["url"].rpartition("/")[2].replace("%2B", "+"))[3], int(wheel["size"]))
        for wheel in package.get("wheels", ())
    ]
    sizes = [0]
    for python in PYTHONS:
        system = {"python_full_version": f"{python}.0", "platform_machine": machine}
        if found[3] and not Marker(found[3]).evaluate(system):
            continue
        fitting = (size for tag in _tags(python, machine) for tags, size in named if tag in tags)
        sizes.append(next(fitting, int(package.get("sdist", {"size": 0})["size"])))
    return max(sizes)


def _tags(python: str, machine: str) -> list[Tag]:
    major, minor = map(int, python.split("."))
    platforms = [f"manylinux_2_{glibc}_{machine}" for glibc in range(_GLIBC, 4, -1)]
    platforms += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    tags = list(cpython_tags((major, minor), platforms=platforms))
    return [*tags, *(Tag(f"py{major}", "none", platform) for platform in [*platforms, "any"]),
            *(Tag("py2", "none", platform) for platform in [*platforms, "any"])]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
