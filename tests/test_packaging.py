"""The wheel: no torch on a robot, and every file that the runtime reads."""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

import jepa_runtime
from jepa_runtime.bundle import manifest_schema
from jepa_runtime.system_files.shipped import DEVICES, find_shipped

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = ROOT / "ros2_ws" / "src" / "jepa_msgs" / "msg"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a copy of this source, which leaves the tree unchanged.

    The copy contains an earlier build with a system file and a module that no longer exist.
    """
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is not installed (extra dev)")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("runtime", "export", "recipes", "firmware_configs", "ros2_ws/src"):
        shutil.copytree(
            ROOT / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("# jepa-edge\n")
    earlier = source / "build" / "lib" / "jepa_runtime"
    for removed in (earlier / "system_files/firmware_configs/jetson/etc/gone.conf", earlier / "gone.py"):
        removed.parent.mkdir(parents=True, exist_ok=True)
        removed.touch()
    program = f"from setuptools.build_meta import build_wheel; print(build_wheel({str(built)!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True, timeout=100)
    return zipfile.ZipFile(next(built.glob("*.whl")))


def test_published_schema_equals_that_of_the_models() -> None:
    published = files("jepa_runtime.schema").joinpath("manifest-1.schema.json").read_text(encoding="utf-8")
    assert published == manifest_schema(), (
        "publish it: python -c 'import jepa_runtime.bundle as b; print(b.manifest_schema(), end=\"\")' "
        "> runtime/jepa_runtime/schema/manifest-1.schema.json"
    )
    assert json.loads(published)["additionalProperties"] is False


def test_message_definitions_equal_those_that_ros_builds() -> None:
    definitions = {
        file.name: file.read_text()
        for file in files("jepa_runtime.ros_messages.msg").iterdir()
        if file.name[-4:] == ".msg"
    }
    assert definitions == {file.name: file.read_text() for file in MESSAGES.glob("*.msg")}
    assert "LatentState.msg" in definitions


def test_runtime_does_not_depend_on_torch(wheel: zipfile.ZipFile) -> None:
    name = next(entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    required = metadata.get_all("Requires-Dist")
    assert required is not None
    base = [entry for entry in required if "extra ==" not in entry]
    assert {re.split("[<>[]", entry)[0] for entry in base} == {
        "numpy",
        "openvino",
        "opencv-python",
        "pydantic",
        "rich",
        "mcap",
        "rosbags",
        "ruamel.yaml",
        "securesystemslib",
        "shtab",
        "tuf",
        "urllib3",
        "zstandard",
    }
    extras = {
        "ros",
        "export",
        "onnxruntime",
        "hub",
        "tensorrt-check",
        "cuda-build",
        "jetson",
        "nvml",
        "viz",
        "worlds",
        "first-person",
        "rerun",
        "dev",
        "docs",
    }
    assert set(metadata.get_all("Provides-Extra") or ()) == extras
    assert metadata["Version"] == jepa_runtime.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_wheel_contains_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(path.relative_to(ROOT / root))
        for root in ("runtime", "export", "recipes")
        for path in (ROOT / root).rglob("*.py")
    }
    expected |= {f"jepa_runtime/ros_messages/msg/{file.name}" for file in MESSAGES.glob("*.msg")}
    expected |= {"jepa_runtime/backends/tensorrt/kernels/preprocess.cu"}
    expected |= {
        f"jepa_runtime/system_files/firmware_configs/{file.device}/{file.path}"
        for file in find_shipped(DEVICES)
    }
    expected |= {
        "jepa_runtime/py.typed",
        "jepa_export/py.typed",
        "jepa_recipes/py.typed",
        "jepa_runtime/schema/manifest-1.schema.json",
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_wheel_contains_the_commands(wheel: zipfile.ZipFile) -> None:
    name = next(entry for entry in wheel.namelist() if entry.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "jepa-runtime = jepa_runtime.cli:main" in text
    assert "jepa-export = jepa_export.cli:main" in text


def test_torch_is_required_by_the_export_extra_alone() -> None:
    project = pytest.importorskip("tomllib", reason="Python 3.11").loads(
        (ROOT / "pyproject.toml").read_text()
    )["project"]
    extras = project["optional-dependencies"]
    with_torch = {
        extra for extra, packages in extras.items() if any(entry.startswith("torch") for entry in packages)
    }
    assert with_torch == {"export"}
