"""``jepa-runtime update daemon`` in a process of its own, a fleet's server, and a signed repository."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jepa_export.release.publish import Terms, publish
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from tests.export.releases import new_repository, opened, variant
from tests.ota.hawkbit.ddi_server import DdiServer

COMMAND = Path(sys.executable).with_name("jepa-runtime")
STABLE = Terms(channel="stable")


class Site:
    """Return a robot whose config.json names the server and whose repository is signed."""

    def __init__(self, folder: Path, toy: Path, ddi: DdiServer) -> None:
        self.root, self.repo = folder / "robot", new_repository(folder)
        trusted = self.repo / "metadata" / "1.root.json"
        arguments = [
            "update", "provision", "--robot", self.root, "--trusted-root", trusted, "--repository", self.repo,
            "--model", "toy", "--device-id", "robot-1", "--hardware", "any", toy,
        ]  # fmt: skip
        assert main([str(argument) for argument in arguments]) == 0
        path = self.root / "config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(fields | {"hawkbit": {"url": ddi.url}}), encoding="utf-8")
        token = self.root / "hawkbit.token"
        token.write_text(ddi.target_token, encoding="ascii")
        token.chmod(0o600)

    @property
    def version(self) -> str:
        return Bundle.open(self.root / "current").manifest.version

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        command = [str(COMMAND), "update", "daemon", "--robot", str(self.root)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def until(true: Callable[[], bool], seconds: float = 60) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if true():
            return True
        time.sleep(0.1)
    return False


def test_daemon_executes_fleet_orders_and_rejects_unsigned_ones(
    tmp_path: Path, toy_bundle: Path, ddi: DdiServer
) -> None:
    site = Site(tmp_path, toy_bundle, ddi)
    publish(opened(site.repo), variant(toy_bundle, tmp_path / "second", "2.0.0", changed=0), STABLE)
    wrong = ddi.assign("6.6.6")
    with site.daemon() as daemon:
        assert until(lambda: wrong.status == "error")
        assert "the latest is release 1 (2.0.0)" in wrong.reported[-1][2][0]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    right = ddi.assign("2.0.0", window=False)
    with site.daemon():
        assert until(lambda: bool(right.reported) and right.reported[-1][0] == "scheduled")
    right.window = True
    with site.daemon():
        assert until(lambda: right.status == "finished")
    assert site.version == "2.0.0"
    assert any("latency_p99_ms" in line for line in right.reported[-1][2])


def test_daemon_with_a_model_of_different_outputs_rejects_it_and_reports_why(
    tmp_path: Path, toy_bundle: Path, wrong_bundle: Path, ddi: DdiServer
) -> None:
    site = Site(tmp_path, toy_bundle, ddi)
    manifest = Bundle.open(wrong_bundle).manifest.model_copy(update={"version": "2.0.0"})
    publish(opened(site.repo), seal(wrong_bundle, manifest), STABLE)
    action = ddi.assign("2.0.0")
    with site.daemon():
        assert until(lambda: action.status == "error")
    assert "does not reproduce its golden outputs" in action.reported[-1][2][0]
    assert site.version == Bundle.open(toy_bundle).manifest.version


@pytest.mark.parametrize("token", [None, "guessed"])
def test_daemon_without_a_valid_token_keeps_polling(
    tmp_path: Path, toy_bundle: Path, ddi: DdiServer, token: str | None
) -> None:
    site = Site(tmp_path, toy_bundle, ddi)
    file = site.root / "hawkbit.token"
    file.unlink() if token is None else file.write_text(token, encoding="ascii")
    with site.daemon() as daemon:
        assert daemon.stderr is not None
        line = daemon.stderr.readline()
        assert daemon.poll() is None
    assert "token" in line
