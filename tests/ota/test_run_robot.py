"""``jepa-runtime run --robot``: models are swapped in a serving process, monitored, and rolled back."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from jepa_runtime.ota.health.serving_socket import SOCKET, LocalServing
from jepa_runtime.ota.storage.slots import SlotStore
from tests.ota.fleets import COMMAND, Fleet, edit, until

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def fleet(tmp_path: Path, toy_bundle: Path) -> Fleet:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    edit(fleet.root, health_window_s=3.0)
    return fleet


@pytest.fixture
def start(fleet: Fleet, tmp_path: Path) -> Iterator[Start]:
    """Serve from the robot's folder in its own process, until the end of the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*more: str) -> subprocess.Popen[str]:
        command = [COMMAND, "run", "--robot", fleet.root, "--source", "two_rooms", "--rate", "50", *more]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        until(lambda: (fleet.root / SOCKET).exists())
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def serves(fleet: Fleet, bundle: Bundle) -> bool:
    return LocalServing(fleet.root).health().serves == bundle.sha256


def ended(process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured


def test_run_swaps_a_model_while_it_serves(fleet: Fleet, start: Start, tmp_path: Path) -> None:
    process = start("--json", str(tmp_path / "run.json"))
    until(lambda: serves(fleet, fleet.bundles[0]))
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    assert fleet.version == "2.0.0" and serves(fleet, fleet.bundles[1])
    output = (fleet.root / "audit.log").read_text()
    assert output.count('"probed"') == 1, (
        "the active model is monitored; a second probe is only for robots without a serving process"
    )
    assert fleet.run("rollback") == 0
    assert fleet.version == "1.0.0" and serves(fleet, fleet.bundles[0])
    measured = ended(process, tmp_path / "run.json")
    assert measured["model"]["version"] == "1.0.0" and measured["frames_failed"] == 0
    assert measured["error"] is None
    assert not (fleet.root / SOCKET).exists()


@pytest.mark.parametrize("out", ["current/run.json", "config.json", "state.json"])
def test_run_does_not_overwrite_files_of_the_robot(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    state = [(fleet.root / name).read_bytes() for name in ("config.json", "state.json")]
    options = ["--source", "two_rooms", "--duration", "0.2", "--json", str(fleet.root / out)]
    assert main(["run", "--robot", str(fleet.root), *options]) == 1
    assert "which is read: write into another file" in capsys.readouterr().err
    assert [(fleet.root / name).read_bytes() for name in ("config.json", "state.json")] == state
    assert Bundle.open(fleet.root / "current").manifest.version == "1.0.0"


def test_model_that_cannot_be_served_is_rejected_by_the_server(
    fleet: Fleet, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """The candidate passes the gate on the engine of config.json; the process runs another precision."""
    start("--precision", "fp16")
    only = fleet.bundles[1]
    manifest = only.manifest.model_dump(mode="json")
    for role, variants in manifest["graphs"].items():
        manifest["graphs"][role] = [one for one in variants or [] if one["precision"] != "fp16"]

    fleet.publish(seal(only.path, manifest), 1)
    assert fleet.run("apply") == 3
    output = " ".join(capfd.readouterr().out.split())
    assert "the serving process cannot serve" in output and "fp16" in output
    assert fleet.version == "1.0.0" and serves(fleet, fleet.bundles[0])


def test_process_that_crashed_with_a_new_model_rolls_it_back(fleet: Fleet, start: Start) -> None:
    edit(fleet.root, health_window_s=60.0)
    process = start()
    fleet.publish(fleet.bundles[1], 1)
    updating = subprocess.Popen([COMMAND, "update", "apply", "--robot", fleet.root], stdout=subprocess.PIPE)
    until(lambda: fleet.version == "2.0.0" and serves(fleet, fleet.bundles[1]))
    process.kill()
    start()
    assert updating.wait(timeout=60) == 3
    assert fleet.version == "1.0.0" and serves(fleet, fleet.bundles[0])


def test_robot_without_a_model_and_a_second_process_are_reported(
    fleet: Fleet, start: Start, tmp_path: Path
) -> None:
    start()
    second = subprocess.run(
        [COMMAND, "run", "--robot", fleet.root, "--source", "two_rooms"], capture_output=True, text=True
    )
    assert (
        second.returncode == 1 and "the serving process needs it, but another process has it" in second.stderr
    )
    (fleet.root / "current").unlink()
    third = subprocess.run(
        [COMMAND, "run", "--robot", fleet.root, "--source", "two_rooms"], capture_output=True, text=True
    )
    assert third.returncode == 1 and "no model is installed" in third.stderr


MOUNT = 'mount --bind $0 $0 && mount -o remount,bind,ro $0 && exec "$@"'
needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="a process may not mount anything here",
)


@needs_mounts
@pytest.mark.parametrize("switched", [False, True])
def test_robot_with_a_read_only_file_system_serves(fleet: Fleet, tmp_path: Path, switched: bool) -> None:
    """Simulate ext4 on worn flash. A candidate whose attempts cannot be counted is not opened."""
    if switched:
        fleet.publish(fleet.bundles[1], 1)
        assert fleet.run("apply") == 0 and fleet.version == "2.0.0"
        SlotStore(fleet.root).point("good", fleet.bundles[0].sha256)
    command = [COMMAND, "run", "--robot", fleet.root, "--source", "two_rooms", "--duration", "1", "--json"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNT, fleet.root, *command, tmp_path / "run.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "run.json").read_text())
    assert measured["model"]["version"] == "1.0.0" and measured["frames_processed"] > 10
    assert "serving without a lock and a socket" in done.stderr


def test_service_waits_for_a_missing_camera(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [COMMAND, "run", "--robot", fleet.root, "--source", "/dev/video97"]
    by_hand = subprocess.run(command, capture_output=True, text=True)
    assert by_hand.returncode == 1 and "/dev/video97" in by_hand.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert systemd.recv(100) == b"READY=1\nSTATUS=waiting for /dev/video97"
            assert systemd.recv(100) == b"WATCHDOG=1"
            time.sleep(4)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert re.findall("next attempt in (.) s", errors) == ["1", "2", "4"]
