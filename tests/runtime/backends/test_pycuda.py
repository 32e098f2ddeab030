"""cuda.py with the real PyCUDA, compiled here over a fake driver (fake_cuda.c): pytest -m slow.

Each test runs in its own process, because PyCUDA may abort it. No GPU is involved.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
# The headers of CUDA in JetPack 6.
PACKAGES = ("pycuda==2026.1", "nvidia-cuda-runtime-cu12==12.6.77", "nvidia-cuda-profiler-api-cu12==12.6.77")
# The fake driver does not have all functions that PyCUDA could call.
LAZILY = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n"
PYTEST = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
OPENED = """
import threading
import numpy as np
from jepa_runtime.backends.tensorrt.cuda import Cuda

def use():
    global gpu, buffer, launch
    gpu = Cuda(0)
    buffer = gpu.buffer((4,), np.uint8)
    launch = gpu.record(lambda: gpu.upload(buffer))
    gpu.run(launch)
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def compile_driver(headers: Path, folder: Path) -> None:
    include = [f"-I{path}" for path in headers.glob("nvidia/*/include")]
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", *include]
    library = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1"]
    subprocess.run(["gcc", *flags, HERE / "fake_cuda.c", *library], check=True)


def compile_pycuda(folder: Path, sources: Path) -> None:
    """Install PyCUDA, and the headers that it was compiled with, in ``folder``."""
    try:
        pip("download", "--no-deps", "--no-binary", "pycuda", "--dest", sources, *PACKAGES)
    except RuntimeError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"pycuda and CUDA's headers cannot be downloaded: {str(error).splitlines()[-1]}")
    pip("install", "--target", folder, *sources.glob("*.whl"))
    compile_driver(folder, sources)
    (archive,) = sources.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", sources], check=True)
    source = sources / archive.name.removesuffix(".tar.gz")
    (source / "siteconf.py").write_text(
        f"CUDA_INC_DIR = {[str(path) for path in folder.glob('nvidia/*/include')]}\n"
        f"CUDADRV_LIB_DIR, CUDADRV_LIBNAME = [{str(sources)!r}], [':libcuda.so.1']\n"
        "CUDA_ENABLE_CURAND, CUDART_LIBNAME = False, []\n"
        "CXXFLAGS, LDFLAGS = ['-O0', '-w'], ['-Wl,-z,lazy']\n"
    )
    pip("install", "--target", folder, source)


@pytest.fixture(scope="session")
def pycuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of PyCUDA, cached for the next session."""
    for compiler in ("gcc", "g++"):
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.exists():
        pytest.skip(f"{headers} does not exist: apt install python3-dev")
    key = "-".join([*PACKAGES, sys.implementation.cache_tag, os.uname().machine])
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa-edge" / "tests"
    folder = caches / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not folder.is_dir():
        caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=caches) as created:
            compile_pycuda(Path(created) / "all", tmp_path_factory.mktemp("sources"))
            # It is complete or absent.
            (Path(created) / "all").rename(folder)
    return folder


@pytest.fixture(scope="session")
def driver(pycuda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake driver."""
    folder = tmp_path_factory.mktemp("driver")
    compile_driver(pycuda, folder)
    return folder


@pytest.fixture
def run(pycuda: Path, driver: Path) -> Run:
    """Runs Python code over the fake driver."""
    result = os.pathsep.join([*sys.path, str(pycuda)])
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": result}
    # Dependencies of PyCUDA may be installed twice, and pytest could load the plugin of the other copy.
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_timeout"}

    def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LAZILY + code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.mark.parametrize(
    ("tests", "marker"), [("test_gpu.py", "hardware"), ("pycuda_cases.py", "not hardware")]
)
def test_pycuda_passes_the_gpu_cases(run: Run, tests: str, marker: str) -> None:
    done = run(PYTEST, "-m", marker, "-rs", HERE / tests)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout


def test_interpreter_with_an_open_gpu_exits_cleanly(run: Run) -> None:
    done = run(OPENED + "use()")
    assert (done.returncode, done.stderr) == (0, "")


def test_thread_that_ends_after_close_exits_cleanly(run: Run) -> None:
    closing = "def body():\n global buffer, launch\n use(); buffer = launch = None; gpu.close()\n"
    done = run(OPENED + closing + "threading.Thread(target=body).start()")
    assert (done.returncode, done.stderr) == (0, "")


def test_thread_that_ends_without_close_ends_the_process(run: Run) -> None:
    """PyCUDA requires that the thread that opens a GPU closes it."""
    done = run(OPENED + "threading.Thread(target=use).start()")
    assert done.returncode == -signal.SIGABRT and "context stack was not empty" in done.stderr
