"""OpenCV is imported on first use, and missing libraries are reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# As the loader reports it on a bare Debian 13.
LACKS = "libGL.so.1: cannot open shared object file: No such file or directory"
NEEDED = (
    "runtime/", "export/", "sim/", "models/", "requirements/", "pyproject.toml", "README.md", "LICENSE",
)  # fmt: skip
ADVICE = ("apt-get install libgl1 libglib2.0-0", "pip install opencv-python-headless")


def _run(program: str, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program with the modules in ``folder`` before the installed ones."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({LACKS!r})\n", encoding="utf-8")
    return tmp_path


def test_import_of_the_runtime_does_not_import_opencv(tmp_path: Path) -> None:
    done = _run("import jepa_runtime.cli, sys; print('cv2' in sys.modules)", tmp_path)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_open_without_system_libraries_reports_what_to_install(broken: Path, two_rooms_bundle: Path) -> None:
    program = "import sys; from jepa_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    command = ("run", two_rooms_bundle, "--source", "two_rooms", "--duration", "0.1")
    done = _run(program, broken, *command)
    assert done.returncode == 1
    assert LACKS in done.stderr and all(advice in done.stderr for advice in ADVICE)
    assert "Traceback" not in done.stderr


def test_commands_that_read_a_bundle_need_no_opencv(broken: Path, two_rooms_bundle: Path) -> None:
    program = "import sys; from jepa_runtime.cli import main; sys.exit(main(['info', sys.argv[1]]))"
    assert _run(program, broken, two_rooms_bundle).returncode == 0


def test_missing_opencv_is_reported(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['cv2'] = None\n"
        "from jepa_runtime.errors import JepaRuntimeError\n"
        "from jepa_runtime.util.opencv import cv2\n"
        "try:\n    cv2.norm\nexcept JepaRuntimeError as error:\n    print(error)\n"
    )
    assert _run(program, tmp_path).stdout.startswith("OpenCV is not installed: pip install opencv-python")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_headless_opencv_works_on_bare_debian_and_the_full_build_names_its_missing_libraries(
    tmp_path: Path,
) -> None:
    """A minimal Debian 13 with Python and no desktop libraries."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap, to install a Debian in a folder")
    root = tmp_path / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    created = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", packages, "trixie", root],
        capture_output=True, text=True,
    )  # fmt: skip
    if created.returncode:
        pytest.skip(f"mmdebstrap cannot install Debian 13 here: {created.stderr.strip()[-300:]}")
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(f"/{name}", root / name)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in tracked.stdout.split("\0"):
        if file.startswith(NEEDED):
            (root / "src" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, root / "src" / file, follow_symlinks=False)
    # runtime/jepa_runtime/ros_messages/msg and system_files/firmware_configs are links to these.
    for linked in ("ros2_ws/src/jepa_msgs/msg", "firmware_configs"):
        shutil.copytree(ROOT / linked, root / "src" / linked)

    def inside(command: str) -> subprocess.CompletedProcess[str]:
        # OpenVINO counts cores in /proc and /sys, and does not terminate without them.
        mounts = " && ".join(f"mount --rbind /{name} {root}/{name}" for name in ("dev", "proc", "sys"))
        entered = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec chroot {root} sh -c "$0"', command]
        environment = {"HOME": "/root", "PATH": "/opt/jepa/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(entered, env=environment, capture_output=True, text=True, timeout=600)

    installed = inside(
        "cd /src && python3 -m venv /opt/jepa && pip install -q --require-hashes -r requirements/base.txt "
        "&& pip install -q --no-deps . ./sim"
    )
    if "ConnectionError" in installed.stderr:
        pytest.skip("the package index cannot be reached")
    assert installed.returncode == 0, installed.stderr
    assert inside("python -c 'import jepa_runtime'").returncode == 0
    run = "jepa-runtime run /src/models/two_rooms --source two_rooms --duration 0.5"
    refused = inside(run)
    assert refused.returncode and "Traceback" not in refused.stderr
    assert all(advice in refused.stderr for advice in ADVICE), refused.stderr
    headless = inside("pip uninstall -q -y opencv-python && pip install -q opencv-python-headless")
    assert headless.returncode == 0, headless.stderr
    served = inside(run)
    assert served.returncode == 0, served.stderr
