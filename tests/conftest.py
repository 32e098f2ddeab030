"""Fixtures and options of all tests."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

# Set before NumPy and torch are imported. Two tests run at once, and more threads than cores slow both down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from jepa_runtime.backends.openvino import signal_stack
from jepa_runtime.bundle import Bundle, seal

ROOT = Path(__file__).resolve().parent.parent
# The duration of an example depends on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for machines with a time limit."""
    parser.addoption(
        "--begin-within", type=float, metavar="SECONDS", help="skip the tests that have not begun by then"
    )
    parser.addoption(
        "--turn", type=int, metavar="N", help="begin with the N-th file, so that each comes first at some N"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Rotate the files by ``--turn``."""
    turn = config.getoption("--turn")
    if turn is not None and items:
        files = list(dict.fromkeys(item.path for item in items))
        first = files[turn % len(files)]
        begin = next(index for index, item in enumerate(items) if item.path == first)
        items[:] = items[begin:] + items[:begin]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests after the time of ``--begin-within``."""
    seconds = item.config.getoption("--begin-within")
    if seconds is not None and time.monotonic() - BEGAN > seconds:
        pytest.skip(f"not begun within {seconds:g} s (--begin-within)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Restore the signal stack: tests use OpenVINO directly too, which would make later signals fatal."""
    with signal_stack.preserved():
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> Iterator[None]:
    """Receive SIGINT, also where a script's ``&`` makes this process ignore it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture(autouse=True, scope="session")
def ros_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write ROS logs to a temporary folder: the home folder may be missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_logs")))
        yield


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a toy bundle (see tests/bundles.py); copy it before changing anything."""
    make_bundle = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)").make_bundle
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def pose_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a toy bundle with a relative pose graph; copy it before changing anything."""
    make_bundle = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)").make_bundle
    folder = tmp_path_factory.mktemp("bundles") / "toy_pose"
    make_bundle(folder, relative_pose=True)
    return folder


@pytest.fixture(scope="session")
def arm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a toy bundle that reads the pose of an arm; copy it before changing anything."""
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("bundles") / "toy_arm"
    bundles.make_arm_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def two_rooms_bundle() -> Path:
    """Return the folder of the bundle that ships with this repository."""
    folder = ROOT / "models" / "two_rooms"
    if not (folder / "manifest.json").is_file():
        pytest.skip("models/two_rooms has no bundle yet")
    return folder


@pytest.fixture
def wrong_bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """Return a sealed bundle whose predictor does not reproduce its golden outputs."""
    copy = Path(shutil.copytree(toy_bundle, tmp_path / "wrong"))
    arrays = dict(np.load(copy / "golden.npz"))
    np.savez(copy / "golden.npz", **arrays | {"futures": arrays["futures"] + 0.5})
    seal(copy, Bundle.open(toy_bundle).manifest)
    return copy
