"""A robot whose updates run under an unprivileged account."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.ota import audit_log, robot, state
from jepa_runtime.util import atomic_files
from tests.ota.fleets import COMMAND, Fleet, edit, until

NOBODY, STDLIB = 65534, sysconfig.get_path("stdlib")
# Like the systemd service, but with one privilege: to read Python, which may be in root's home.
UNPRIVILEGED = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
    *(f"--{caps}=-all,+dac_read_search" for caps in ("inh-caps", "ambient-caps", "bounding-set")),
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
]


class Account:
    """An unprivileged account, and a fleet in a folder that anybody may enter.

    Args:
        library: A copy of the standard library: in a probe, the one privilege is dropped.
    """

    def __init__(self, folder: Path, toy: Path, library: Path) -> None:
        folder.chmod(0o755)
        self._library = library
        self.fleet = Fleet(folder, toy)
        self.root = self.fleet.root
        self.root.mkdir()
        os.chown(self.root, NOBODY, NOBODY)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*UNPRIVILEGED, COMMAND, "update", *args, "--robot", str(self.root)],
            env=os.environ | {"HOME": "/", "PYTHONPATH": f"{self._library}:{self._library}/lib-dynload"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str) -> tuple[int, str]:
        started = self.start(*args)
        out, err = started.communicate(timeout=60)
        return started.returncode, out + err

    def provision(self) -> tuple[int, str]:
        fleet = self.fleet
        return self.run(
            "provision", "--trusted-root", str(fleet.trusted_root), "--repository",
            str(fleet.repository.folder), "--model", "toy", "--hardware", "bench",
            str(fleet.bundles[0].path),
        )  # fmt: skip

    def probed(self) -> list[dict[str, Any]]:
        entries = audit_log.AuditLog(self.root / robot.AUDIT, robot.utc_now).entries()
        return [entry.facts for entry in entries if entry.event == "probed"]


@pytest.fixture(scope="module")
def library() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder, "python")
        yield shutil.copytree(STDLIB, copy, ignore=shutil.ignore_patterns("test*", "site-packages"))


@pytest.fixture
def account(toy_bundle: Path, library: Path) -> Iterator[Account]:
    with tempfile.TemporaryDirectory() as folder:
        yield Account(Path(folder), toy_bundle, library)


def test_account_provisions_updates_and_rolls_back_a_robot(account: Account) -> None:
    assert account.provision()[0] == 0
    account.fleet.publish(account.fleet.bundles[1], 1)
    status, reported = account.run("apply")
    assert status == 0, reported
    assert account.fleet.version == "2.0.0" and len(account.probed()) == 2
    assert all(path.lstat().st_uid == NOBODY for path in account.root.rglob("*"))
    assert account.run("rollback")[0] == 0
    assert account.fleet.version == "1.0.0"


def test_account_runs_and_stops_its_service(account: Account) -> None:
    assert account.provision()[0] == 0
    edit(account.root, poll_s=1.0)
    started = account.start("daemon")
    try:
        until(lambda: state.load(account.root / robot.STATE).result == "failed")
        started.send_signal(signal.SIGTERM)
        assert started.communicate(timeout=60)[1].endswith("stopped\n")
        assert started.returncode == 0
    finally:
        started.kill()
        started.communicate()


def test_folder_of_another_account_is_readable_and_names_its_owner(account: Account) -> None:
    os.chown(account.root, 0, 0)
    status, reported = account.provision()
    assert status == 1 and f"{account.root}: belongs to root" in reported
    assert account.fleet.provision() == 0
    status, reported = account.run("status", "--json")
    assert status == 0 and json.loads(reported)["phase"] == "idle"
    for action in ("apply", "check", "rollback", "pin", "cancel", "daemon"):
        status, reported = account.run(action)
        command = shlex.join([str(COMMAND), "update", action, "--robot", str(account.root)])
        assert status == 1 and f"run `sudo -u root {command}`" in reported


def test_root_leaves_no_files_in_a_folder_of_another_account(account: Account) -> None:
    assert account.provision()[0] == 0
    account.fleet.publish(account.fleet.bundles[1], 1)
    for action in (["update", "apply", "--robot"], ["run", "--source", "two_rooms", "--robot"]):
        command = [str(COMMAND), *action, str(account.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"run `sudo -u nobody {shlex.join(command)}`" in done.stderr
    assert {path.lstat().st_uid for path in account.root.rglob("*")} == {NOBODY}
    assert account.run("apply")[0] == 0 and account.fleet.version == "2.0.0"


def test_other_account_cannot_take_a_lock_of_serving_or_updates(account: Account) -> None:
    os.chown(account.root, 0, 0)
    lock, expected = account.root / "lock", account.root / "lock.wanted"
    for path in (lock, expected):
        path.touch(0o644)
    with atomic_files.locked(lock, purpose="an update"):
        pass
    for path in (lock, expected):
        taken = subprocess.run([*UNPRIVILEGED[:4], "cat", path], capture_output=True, text=True, check=False)
        assert f"{path}: Permission denied" in taken.stderr
