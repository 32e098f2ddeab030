"""Attacks and faults on a whole robot: its error, and the active model meanwhile and afterwards.

Tests of single parts are next to the tests of those parts; ``docs/update-faults.md`` lists all.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.ota import robot, state
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.release import MAX_POINTER_BYTES, pointer_path
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport import http_source
from jepa_runtime.ota.transport.repository_sources import Limits
from tests.errors import code
from tests.ota import robots, servers
from tests.ota.campaigns import faults
from tests.ota.fleets import edit
from tests.ota.repositories import CHANNELS, START, Repository
from tests.ota.robots import CHANNEL, MODEL, Gate, Serving, Site, client_arguments, release_of
from tests.ota.servers import FakeClock, Fault, FaultServer

LIMITS = {"free_bytes": 0}


class Fleet:
    """Return a robot that updates from a signed repository on a web server; only the engine is simulated."""

    def __init__(
        self, home: Path, bundles: list[Bundle], repository: Repository, server: FaultServer
    ) -> None:
        self.repository, self.server, self.now = repository, server, START + timedelta(hours=1)
        self.root, self.bundles = (
            home / "robot",
            [bundles[0], _longer(bundles[1], home / "longer"), *bundles[2:]],
        )
        provision(
            self.root,
            robots.settings(repository=server.url, fetch=Limits(**LIMITS)),
            repository.first_root,
            bundle=bundles[0].path,
            now=lambda: self.now,
        )
        self.publish(self.bundles[1], 2)

    def publish(self, bundle: Bundle, seq: int, **fields: Any) -> None:
        self.repository.release(bundle, release_of(bundle, seq, **fields))

    def point(self, content: bytes) -> None:
        self.repository.add(pointer_path(CHANNEL, MODEL), content)
        self.repository.publish(CHANNELS[0])

    def update(self, **arguments: Any) -> State:
        with (
            patch.object(robot, "SOFTWARE_DATE", START),
            robot.open_client(
                self.root,
                **client_arguments(
                    **{"gate": Gate(), "now": lambda: self.now, "clock": FakeClock()} | arguments
                ),
            ) as client,
        ):
            return client.update()

    def served(self, name: str) -> str:
        """Return the path under which a server has a file."""
        if name == "timestamp":
            return "metadata/timestamp.json"
        if name in self.repository.signed:
            return f"metadata/{self.repository.file(name).name}"
        folder = f"models/{CHANNEL}/{MODEL}"
        path = {"pointer": f"{folder}/latest.json"}.get(name, f"{folder}/2.0.0/{name}")
        return str(self.repository.stored(path).relative_to(self.repository.folder))

    @property
    def version(self) -> str:
        return Bundle.open(self.root / "current").manifest.version


def _longer(bundle: Bundle, folder: Path) -> Bundle:
    """Limit downloads so that a file needs several steps."""
    shutil.copytree(bundle.path, folder)
    (folder / "report.json").write_text(json.dumps({"padding": "x" * 4000}))
    return seal(folder, bundle.manifest)


@pytest.fixture
def fleet(
    tmp_path: Path, bundles: list[Bundle], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    monkeypatch.setattr(http_source, "_PAUSE_S", 0.0)
    with FaultServer(repository.folder) as server:
        yield Fleet(tmp_path, bundles, repository, server)


FILES = ("timestamp", "channel-stable", "pointer", "report.json")
METADATA, SMALL, LARGE = FILES[:2], FILES[2:3], FILES[3:]
# The behavior of a server, and the error for each file.
FAULTS: dict[str, tuple[Fault, dict[tuple[str, ...], str]]] = {
    "cuts the connection": (servers.cut(5), {FILES: "the connection was lost, or the response is not HTTP"}),
    "falls silent": (servers.stall(5), {FILES: "the server is silent or too slow"}),
    "sends a byte now and then": (servers.trickle(0.03), {FILES: "timed out after 2 s"}),
    "answers with garbage": (servers.garbage, {FILES: "the connection was lost, or the response"}),
    "always fails": (servers.status(500), {FILES: r"the server responded 500 \(Internal Server Error\)"}),
    "has lost the file": (servers.status(404), {FILES: r"the server responded 404 \(Not Found\)"}),
    "knows no such range": (servers.status(416), {FILES: "the server responded 416"}),
    "sends without end": (
        servers.endless,
        {(*METADATA, *SMALL): "longer than the [0-9]+ bytes", LARGE: "the content has another hash"},
    ),
    "sends something else": (
        servers.instead(b"<html>Please log in</html>" * 200),
        {METADATA: "not valid signed metadata|not the announced file",
         SMALL: "longer than the [0-9]+ bytes", LARGE: "the content has another hash"},
    ),
}  # fmt: skip


SLOW = "sends a byte now and then"
# Timeouts by which these are detected; on a busy machine a valid answer may take longer.
IMPATIENT = {"falls silent": {"read_s": 0.1}, SLOW: {"total_s": 2}}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow if name == SLOW else ()) for name in FAULTS]
)
def test_update_with_server_errors_reports_them_and_keeps_the_active_model(
    fleet: Fleet, fault: str, name: str
) -> None:
    behavior, expected = FAULTS[fault]
    fleet.server.faults[fleet.served(name)] = behavior
    edit(fleet.root, fetch=LIMITS | IMPATIENT.get(fault, {}))
    state = fleet.update()
    assert (state.result, state.phase, fleet.version) == ("failed", Phase.IDLE, "1.0.0")
    (reason,) = (reason for files, reason in expected.items() if name in files)
    assert re.search(reason, state.reason), state.reason
    assert len(fleet.server.requests) < 150
    fleet.server.faults.clear()
    edit(fleet.root, fetch=LIMITS)
    assert fleet.update(retry_rejected=True).result == "updated" and fleet.version == "2.0.0"


@pytest.mark.parametrize("name", FILES)
def test_update_with_intermittent_server_errors_succeeds(fleet: Fleet, name: str) -> None:
    fleet.server.faults[fleet.served(name)] = servers.first(2, servers.status(500))
    assert fleet.update().result == "updated"


@pytest.mark.parametrize("name", FILES)
def test_update_with_a_busy_server_waits_as_long_as_requested(fleet: Fleet, name: str) -> None:
    fleet.server.faults[fleet.served(name)] = servers.first(2, servers.status(429, Retry_After="60"))
    clock = FakeClock()
    assert fleet.update(clock=clock).result == "updated"
    assert 120 <= clock.now < 130


def test_update_with_the_clock_ten_years_ahead_stops_and_keeps_the_active_model(fleet: Fleet) -> None:
    fleet.now += timedelta(days=3650)
    state = fleet.update()
    assert state.result == "failed" and "is expired at 2036-02-27 01:00 UTC" in state.reason
    assert "this clock is ahead, set it" in state.reason and fleet.version == "1.0.0"
    fleet.now -= timedelta(days=3650)
    assert fleet.update().result == "updated"


def test_update_with_the_clock_ten_years_back_continues_and_rejections_expire(fleet: Fleet) -> None:
    assert fleet.update(gate=Gate({"2.0.0": "probe"})).result == "rejected"
    fleet.now -= timedelta(days=3650)
    assert fleet.update().result == "rejected", "only the signatures give evidence of the time"
    fleet.repository.now += timedelta(hours=3)
    fleet.repository.publish()
    assert fleet.update().result == "updated"


def test_manifest_of_another_release_is_rejected(fleet: Fleet) -> None:
    release = release_of(fleet.bundles[1], 3, manifest_sha256=fleet.bundles[2].sha256)
    fleet.point(release.model_dump_json().encode())
    state = fleet.update()
    assert state.result == "failed" and "not the manifest of release 3" in state.reason
    assert fleet.version == "1.0.0"


def test_pointer_to_another_model_is_rejected(fleet: Fleet) -> None:
    content = json.loads(release_of(fleet.bundles[1], 3).model_dump_json())
    fleet.point(json.dumps(content | {"model_id": "other"}).encode())
    state = fleet.update()
    assert state.result == "failed" and "offers model other instead of toy" in state.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "unknown format version None, this jepa-edge supports version 1: update jepa-edge"),
        (b'{"schema_version": 2}', "unknown format version 2"),
        (b"[" * 5000, "nested too deeply"),
        (b" " * (MAX_POINTER_BYTES + 1), f"{MAX_POINTER_BYTES} are allowed"),
    ],
    ids=["empty", "of a later version", "nested without end", "too long"],
)
def test_signed_pointer_with_malformed_content_is_reported(fleet: Fleet, content: bytes, reason: str) -> None:
    fleet.point(content)
    state = fleet.update()
    assert state.result == "failed" and reason in state.reason
    assert fleet.version == "1.0.0"


def test_slot_damaged_while_waiting_is_not_activated(site: Site, bundles: list[Bundle]) -> None:
    site.serving = serving = Serving()
    serving.swap(site.root / "current")
    site.repository.publish(bundles[1], 2)

    def rot(state: State, _: str) -> None:
        if state.phase is Phase.ARMED:
            path = SlotStore(site.root).folder(bundles[1].sha256) / "report.json"
            path.chmod(0o644)
            path.write_bytes(b"{}")

    state = site.update(on_state=rot)
    assert state.result == "rejected" and "report.json: has 2 bytes, the manifest lists" in state.reason
    assert (site.version, site.good) == ("1.0.0", "1.0.0") and "2.0.0" not in serving.swaps


def test_restarts_of_a_committed_model_are_not_counted(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    messages: list[State] = []
    site.update(on_state=lambda state, _: messages.append(state))
    after_commit = next(state for state in messages if state.phase is Phase.REPORT)
    for _ in range(10):
        state.save(site.root / robot.STATE, after_commit)
        assert site.update().result == "updated"
    assert (site.version, site.good) == ("2.0.0", "2.0.0")


def test_update_success_is_not_reported_before_the_commit(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    messages: list[tuple[str, str, str]] = []
    site.update(on_end=lambda state: messages.append((state.result, site.version, site.good)))
    assert messages == [("updated", "2.0.0", "2.0.0")]


def test_report_that_cannot_be_delivered_causes_no_rollback(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)

    def report(_: State) -> None:
        raise robots.unreachable()

    assert site.update(on_end=report).result == "updated"
    assert (site.version, site.good) == ("2.0.0", "2.0.0")


def test_update_without_a_temporary_folder_succeeds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the temporary folder in memory or on another disk than the slots."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert fleet.update().result == "updated"


def test_folder_without_write_permission_is_reported(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    (site.root / "staging").rmdir()
    (site.root / "staging").write_bytes(b"in the way")
    with pytest.raises(robot.UpdateError, check=code("storage.io_error")):
        site.update()
    assert site.version == "1.0.0"
    (site.root / "staging").unlink()
    assert site.update().result == "updated"


def test_fault_page_rows_name_existing_tests_and_their_errors() -> None:
    rows, lines = faults.rows(), faults.PAGE.read_text("utf-8").splitlines()
    assert len(rows) == sum(line.endswith("` |") for line in lines) > 100
    for row in rows:
        path, _, name = row.test.partition("::")
        assert f"\ndef {name.partition('[')[0]}(" in (faults.TESTS / path).read_text("utf-8"), row
        assert row.error == "none" or f"| {row.error} `" in lines[row.line], row


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fault_page_matches_the_errors_of_its_tests() -> None:
    command = [sys.executable, "-m", "tests.ota.campaigns.faults", "--check"]
    ended = subprocess.run(command, cwd=faults.ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]


def test_rewrite_removes_text_that_differs_from_run_to_run() -> None:
    row = faults.rows()[0]
    text = f"`a.b`: /tmp/x/t/test_0/robot/lock: http://127.0.0.1:40123/f has {'0a' * 32} | (pid 12)\nend"
    page = faults.rewrite(faults.PAGE.read_text("utf-8").splitlines(), {row: text}, "/tmp/x")
    assert f"{row.error} `a.b`: .../lock: http://127.0.0.1:PORT/f has SHA256 \\| (pid N) end |" in page
