"""``jepa-runtime update`` on signed repositories: what it does, shows, and ends with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import MANIFEST_NAME, Bundle, seal
from jepa_runtime.cli import main
from jepa_runtime.update.release import pointer_path
from jepa_runtime.update.state import Phase
from tests.update.repositories import Repository
from tests.update.robots import CHANNEL, MODEL, release_of, variant
from tests.update.servers import FaultServer


class Fleet:
    """A signed repository, and one robot that follows it."""

    def __init__(self, folder: Path, toy: Path) -> None:
        self.repository = Repository(folder / "repository", now=datetime.now(UTC))
        self.root = folder / "robot"
        self.bundles = [variant(toy, folder / str(number), f"{number}.0.0") for number in (1, 2, 3)]
        self._trusted_root = folder / "root.json"
        self._trusted_root.write_bytes(self.repository.first_root)

    def provision(self, *more: str) -> int:
        return main(
            ["update", "provision", "--root", str(self.root), "--trusted-root", str(self._trusted_root),
             "--repository", str(self.repository.folder), "--channel", CHANNEL, "--model", MODEL,
             "--device-id", "robot-1", "--hardware", "bench", "--bundle", str(self.bundles[0].path), *more]
        )  # fmt: skip

    def publish(self, bundle: Bundle, seq: int, **fields: Any) -> None:
        release = release_of(bundle, seq, **fields)
        for record in bundle.manifest.files:
            self.repository.add(f"{release.folder}/{record.path}", bundle.read(record.path))
        self.repository.add(release.manifest_target, (bundle.path / MANIFEST_NAME).read_bytes())
        self.repository.add(pointer_path(CHANNEL, MODEL), release.model_dump_json().encode())
        self.repository.publish("channel-stable")

    def run(self, action: str, *more: str) -> int:
        return main(["update", action, "--root", str(self.root), *more])

    @property
    def version(self) -> str:
        return Bundle.open(self.root / "current").manifest.version


@pytest.fixture
def fleet(tmp_path: Path, toy_bundle: Path, capfd: pytest.CaptureFixture[str]) -> Fleet:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    assert "is set up" in capfd.readouterr().out
    return fleet


def told(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capfd.readouterr().out)
    return content


def test_a_signed_release_passes_the_real_gate_and_serves(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("check") == 0
    assert "release 1 (2.0.0) is offered" in capfd.readouterr().out
    assert fleet.version == "1.0.0"
    assert fleet.run("apply") == 0
    shown = capfd.readouterr()
    assert shown.out == "updated: toy 2.0.0, release 1 of stable serves\n"
    assert "trying it in a process of its own" in shown.err
    assert fleet.version == "2.0.0"
    assert fleet.run("apply") == 0
    assert "nothing installed" in capfd.readouterr().out

    assert fleet.run("status") == 0
    shown = capfd.readouterr()
    for words in ("toy 2.0.0, release 1 of stable", "toy 1.0.0"):
        assert words in shown.out
    assert fleet.run("history", "--json") == 0
    entries = json.loads(capfd.readouterr().out)
    assert entries[0]["event"] == "set up"
    probed = next(entry["facts"] for entry in entries if entry["event"] == "probed")
    assert probed["latency_p99_ms"] > 0
    assert fleet.run("verify") == 0
    assert "every file has its hash" in capfd.readouterr().out


def test_a_model_that_computes_something_else_is_refused_with_3(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = fleet.bundles[1].path
    golden = dict(np.load(folder / "golden.npz"))
    golden["latents"] += 1
    np.savez(folder / "golden.npz", **golden)
    fleet.publish(seal(folder, fleet.bundles[1].manifest), 1)
    assert fleet.run("apply", "--json") == 3
    kept = told(capfd)
    assert kept["result"] == "refused" and "does not reproduce its golden outputs" in kept["reason"]
    assert fleet.version == "1.0.0"
    assert fleet.run("status") == 0
    assert "once, until" in " ".join(capfd.readouterr().out.split())
    assert fleet.run("apply") == 3
    assert "was refused until" in capfd.readouterr().out


def test_a_repository_that_was_set_back_is_an_error(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    timestamp = fleet.repository.file("timestamp")
    old = timestamp.read_bytes()
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    timestamp.write_bytes(old)
    capfd.readouterr()
    assert fleet.run("apply", "--json") == 1
    assert told(capfd)["result"] == "failed"
    shutil.rmtree(fleet.root / "meta")
    assert fleet.run("apply", "--json") == 1, "the floors hold without the metadata"
    assert fleet.version == "2.0.0"


def test_an_update_comes_on_a_stick_as_well(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    stick = fleet.repository.folder.rename(tmp_path / "stick")
    assert fleet.run("apply", "--from", str(stick)) == 0
    assert fleet.version == "2.0.0"


def test_an_update_comes_over_the_network_with_its_targets_from_another_server(fleet: Fleet) -> None:
    fleet.publish(fleet.bundles[1], 1)
    with (
        FaultServer(fleet.repository.folder) as server,
        FaultServer(fleet.repository.folder / "targets") as targets,
    ):
        edit(fleet.root, repository=server.url, targets=targets.url)
        assert fleet.run("apply") == 0
    assert fleet.version == "2.0.0"
    assert all(path.startswith("metadata/") for path, _ in server.requests)
    assert any(path.endswith(".report.json") for path, _ in targets.requests)


def edit(root: Path, **fields: Any) -> None:
    """As a person does, in an editor."""
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chanel": "beta"}, "chanel: Extra inputs are not permitted"),
        ({"poll_s": 0}, "poll_s: Input should be greater than or equal to 1"),
        ({"fetch": {"red_s": 5}}, "fetch.red_s"),
        ({"fetch": {"connect_s": 0}}, "connect_s must be above 0"),
        ({"probe": {"wall_s": 900}}, "no limit on waiting may reach 900 s, got 900"),
    ],
)
def test_a_set_up_that_makes_no_sense_is_told(
    fleet: Fleet, capfd: pytest.CaptureFixture[str], fields: dict[str, Any], reason: str
) -> None:
    edit(fleet.root, **fields)
    assert fleet.run("apply") == 1
    error = capfd.readouterr().err
    assert reason in error and "config.json" in error


def test_rollback_pin_and_unpin(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    assert fleet.run("rollback", "--reason", "it drifts") == 0
    assert fleet.version == "1.0.0"
    fleet.publish(fleet.bundles[2], 2)
    assert fleet.run("pin") == 0
    capfd.readouterr()
    assert fleet.run("apply", "--json") == 0
    assert "pinned" in told(capfd)["reason"] and fleet.version == "1.0.0"
    assert fleet.run("unpin") == 0 and fleet.run("apply") == 0
    assert fleet.version == "3.0.0"
    capfd.readouterr()
    assert fleet.run("history") == 0
    assert "it drifts" in capfd.readouterr().out


def test_verify_names_what_the_disk_has_changed(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    report = (fleet.root / "current").resolve() / "report.json"
    report.chmod(0o644)
    report.write_text("{}")
    assert fleet.run("verify", "--json") == 1
    found = told(capfd)["found"]
    assert "report.json: " in found["current"] and found["current"].startswith("WRONG")
    assert not found["state"].startswith("WRONG")


def test_a_lost_state_is_made_again(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    (fleet.root / "state.json").unlink()
    assert fleet.run("apply") == 1
    assert "--rebuild" in capfd.readouterr().err
    assert fleet.run("provision", "--rebuild") == 0
    assert fleet.run("verify") == 0


@pytest.mark.parametrize("action", ["apply", "check", "rollback", "status", "pin", "verify"])
def test_a_folder_that_was_never_set_up_is_told_and_stays_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], action: str
) -> None:
    assert main(["update", action, "--root", str(tmp_path)]) == 1
    shown = capfd.readouterr()
    assert "jepa-runtime update provision" in shown.out + shown.err
    assert not list(tmp_path.iterdir())


def test_provision_says_what_is_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["update", "provision", "--root", str(tmp_path / "new"), "--repository", "/r"]) == 1
    assert "give --trusted-root, --model, --hardware as well" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


class Daemon:
    """``jepa-runtime update daemon`` in a process, with somebody who listens to what it tells systemd."""

    def __init__(self, root: Path, address: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))
        self.socket.settimeout(60)
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("jepa-runtime"), "update", "daemon", "--root", str(root)],
            env=os.environ | {"NOTIFY_SOCKET": str(address)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def heard(self, prefix: str) -> str:
        while not (message := self.socket.recv(4096).decode()).startswith(prefix):
            pass
        return message


@pytest.fixture
def daemon(fleet: Fleet, tmp_path: Path) -> Iterator[Daemon]:
    started = Daemon(fleet.root, tmp_path / "notify")
    yield started
    started.process.kill()
    started.process.communicate()
    started.socket.close()


def test_the_daemon_updates_tells_systemd_and_stops_cleanly(fleet: Fleet, daemon: Daemon) -> None:
    assert daemon.heard("READY=1")
    # Nothing was published under the pointer's name yet.
    assert daemon.heard("STATUS=failed; serves 1.0.0")
    assert daemon.heard("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.heard("STOPPING=1")
    _, log = daemon.process.communicate(timeout=60)
    assert daemon.process.returncode == 0
    assert log.splitlines()[-1] == "stopped" and "latest.json" in log


def test_a_daemon_that_is_stopped_in_the_middle_leaves_the_update_to_the_next(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    started = Daemon(fleet.root, tmp_path / "notify")
    state_file = fleet.root / "state.json"
    deadline = time.monotonic() + 60
    while json.loads(state_file.read_bytes())["state"]["phase"] != Phase.PROBE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(60) == 0
    kept = json.loads(state_file.read_bytes())["state"]
    # The step in work ends first.
    assert kept["phase"] in (Phase.PROBE, Phase.SHADOW) and kept["stopped"]
    started.process.communicate()
    started.socket.close()
    assert fleet.run("apply") == 0
    assert fleet.version == "2.0.0"


def test_a_process_that_gives_no_sign_of_life_ends_itself_and_says_where_it_hung() -> None:
    program = (
        "import threading, time\n"
        "from jepa_runtime.update import daemon\n"
        "daemon.HANG_S = 0.3\n"
        "with daemon.watched(threading.Event()) as alive:\n"
        "    for _ in range(3):\n"
        "        alive()\n"
        "        time.sleep(0.2)\n"
        "    print('lives', flush=True)\n"
        "    time.sleep(60)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "lives\n"
    assert 'File "<string>", line 9' in done.stderr
    assert time.monotonic() - began < 30
