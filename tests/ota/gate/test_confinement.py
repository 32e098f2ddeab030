"""The process that tests a bundle drops network, disk, privileges and resources before it opens it."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jepa_runtime.ota.gate import landlock as disk
from jepa_runtime.ota.gate.probe import CHILD, probe
from tests.conftest import ROOT
from tests.ota.gate.test_probe import ANYTHING, LIMITS

CONFINED = (
    "import errno, json, os, resource, socket, sys\n"
    f"from {CHILD} import confine\n"
    "from jepa_runtime.ota.gate.probe import ProbeLimits\n"
    "limits, drivers = ProbeLimits(memory_mb=1000, cpu_s=7), 'drivers' in sys.argv\n"
    "cut = confine(limits, os.getppid(), drivers=drivers, yields=True)\n"
    "try:\n"
    "    socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5)\n"
    "    reached = True\n"
    "except OSError:\n"
    "    reached = False\n"
    "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())\n"
    "names = 'CORE', 'DATA', 'CPU', 'FSIZE'\n"
    "limits = {name: resource.getrlimit(getattr(resource, f'RLIMIT_{name}')) for name in names}\n"
    "facts = {'reached': reached, 'privileges': status['NoNewPrivs'], 'limits': limits}\n"
    "tries = {\n"
    "    'mode': lambda: os.chmod('kept', 0o600),\n"
    "    'mode of open': lambda: os.chmod(os.open('kept', os.O_RDONLY), 0o600),\n"
    "    'owner': lambda: os.chown('kept', -1, -1),\n"
    "    'attribute': lambda: os.setxattr('kept', 'user.new', b'1'),\n"
    "    'write': lambda: open('kept', 'r+'),\n"
    "    'make': lambda: open('new', 'x'),\n"
    "    'truncate': lambda: os.truncate('kept', 0),\n"
    "    'remove': lambda: os.unlink('kept'),\n"
    "    'signal': lambda: os.kill(os.getppid(), 0),\n"
    "    'service': lambda: socket.socket(socket.AF_UNIX),\n"
    "    'pair': lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),\n"
    "}\n"
    "open(os.devnull, 'w').close()\n"
    "refused = []\n"
    "for name, attempt in tries.items():\n"
    "    try:\n"
    "        attempt()\n"
    "    except PermissionError:\n"
    "        refused.append(name)\n"
    "    except OSError as error:\n"
    "        assert (name, error.errno) == ('attribute', errno.EOPNOTSUPP)\n"
    "print(json.dumps(facts | cut | {'refused': refused}))\n"
)


def confined(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return the observations of a confined process in ``folder``, which contains a file ``kept``."""
    (folder / "kept").write_text("kept", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", CONFINED, str(server.getsockname()[1]), *arguments], cwd=folder,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def landlock() -> int:
    """Return the version of the kernel's Landlock; below 1: it has none."""
    version: int = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    return version


@pytest.mark.skipif(landlock() < 6, reason="needs Landlock as of Linux 6.12")
def test_probe_on_a_cpu_writes_nothing_and_reaches_no_other_process(tmp_path: Path) -> None:
    result = confined(tmp_path)
    assert result["disk_isolated"]
    assert result["refused"] == [
        "mode", "mode of open", "owner", "attribute",
        "write", "make", "truncate", "remove", "signal", "service", "pair",
    ]  # fmt: skip
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [
        ("kept", "kept")
    ]


def test_probe_that_needs_drivers_keeps_their_access(tmp_path: Path) -> None:
    result = confined(tmp_path, "drivers")
    assert not result["disk_isolated"]
    assert not {"write", "make", "service", "pair", "mode", "owner"} & {*result["refused"]}


def test_kernel_without_landlock_is_reported() -> None:
    libc = SimpleNamespace(syscall=lambda *_: -1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda _: libc)
        assert not disk.forbid()


@pytest.mark.parametrize(("version", "cut"), [(1, False), (2, False), (3, True), (99, True)])
def test_kernel_without_truncate_control_leaves_the_disk_writable(
    version: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate these versions of Landlock."""
    answers = [version, os.open(os.devnull, os.O_RDONLY), 0, 0]
    libc = SimpleNamespace(syscall=lambda *_: answers.pop(0))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert disk.forbid() is cut and not answers


@pytest.mark.skipif(landlock() < 3, reason="needs Landlock as of Linux 6.2")
@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime"])
def test_cpu_engines_need_no_write_access(toy_bundle: Path, engine: str) -> None:
    pytest.importorskip(engine.partition(":")[0])
    assert probe(toy_bundle, budgets=ANYTHING, engine=engine, limits=LIMITS).disk_isolated


def test_probe_drops_network_privileges_and_resources(tmp_path: Path) -> None:
    result = confined(tmp_path)
    assert result["network_isolated"] and not result["reached"]
    assert result["privileges"] == "1"
    fixed = {"CORE": [0, 0], "FSIZE": [1 << 20, 1 << 20]}
    assert result["limits"] == fixed | {"DATA": [10**9, 10**9], "CPU": [7, 8]}


def test_probe_whose_parent_died_before_confinement_exits() -> None:
    code = CONFINED.replace("os.getppid()", "-1")
    done = subprocess.run([sys.executable, "-c", code, "0"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the parent process has died" in done.stderr


def test_probe_without_namespaces_has_no_sockets() -> None:
    code = (
        "import ctypes, json, socket, threading\n"
        "from jepa_runtime.ota.gate import seccomp as calls\n"
        "ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n"
        "forbidden, found = calls.forbid(drivers=True), {}\n"
        "def ask(name):\n"
        "    try:\n"
        "        socket.socket(getattr(socket, name)).close()\n"
        "        found[name] = 'open'\n"
        "    except OSError as error:\n"
        "        found[name] = type(error).__name__\n"
        "for name in ('AF_INET', 'AF_INET6', 'AF_PACKET', 'AF_UNIX'):\n"
        "    thread = threading.Thread(target=ask, args=(name,))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "print(json.dumps([forbidden, found]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rejected = dict.fromkeys(["AF_INET", "AF_INET6", "AF_PACKET"], "PermissionError")
    assert json.loads(done.stdout) == [True, rejected | {"AF_UNIX": "open"}]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.skipif(landlock() < 3, reason="needs Landlock as of Linux 6.2")
def test_release_whose_probe_cannot_be_confined_is_rejected_unless_allowed(
    toy_bundle: Path, required: bool
) -> None:
    """Simulate a unit whose system call filter excludes those of Landlock."""
    code = (
        "import ctypes, json, platform, socket, sys\n"
        "from pathlib import Path\n"
        "from jepa_runtime.errors import ReleaseRejectedError\n"
        "from jepa_runtime.ota.gate import seccomp as calls\n"
        "from jepa_runtime.ota.gate.probe import probe\n"
        "from tests.ota.gate.test_probe import ANYTHING, LIMITS\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(38, 1, 0, 0, 0)\n"
        "machine = calls._MACHINES[platform.machine()]\n"
        "code = calls._filter(*machine, (444, 445, 446), socket.AF_UNIX)\n"
        "program = calls._Program(len(code) // 8, code)\n"
        "assert not libc.prctl(22, 2, ctypes.byref(program), 0, 0)\n"
        "required = sys.argv[2] == 'True'\n"
        "try:\n"
        "    report = probe(Path(sys.argv[1]), budgets=ANYTHING, limits=LIMITS, require_sandbox=required)\n"
        "    print(json.dumps([report.network_isolated, report.disk_isolated]))\n"
        "except ReleaseRejectedError as error:\n"
        "    print(json.dumps(str(error)))\n"
    )
    command = [sys.executable, "-c", code, str(toy_bundle), str(required)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    result = json.loads(done.stdout)
    if required:
        assert "was not opened, because its probe cannot be isolated from the disk" in result
        assert "require_sandbox to false" in result
    else:
        assert result == [True, False]
