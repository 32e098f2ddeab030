"""Trust in a repository: signed, current and complete metadata, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import JepaRuntimeError, StorageError, TrustError, UpdateError
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import NotFoundError
from jepa_runtime.ota.trust.metadata import SIGNED_AT
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from tests.errors import code
from tests.ota.repositories import CONTENT, FILE, START, Repository
from tests.ota.servers import FaultServer
from tests.ota.trusted_robots import DAY, LIMITS, NOTHING, Robot, resign

# Valid repositories.


def test_signed_file_is_trusted(robot: Robot) -> None:
    assert robot.fetch() == CONTENT
    assert robot.trust.read(FILE, len(CONTENT)) == CONTENT


def test_refresh_returns_the_verified_versions(robot: Robot, repository: Repository) -> None:
    repository.now += DAY
    repository.publish("channel-stable")
    seen = robot.refresh()
    assert seen.versions == {
        "root": 1,
        "timestamp": 2,
        "snapshot": 2,
        "targets": 1,
        "channel-stable": 2,
        "channel-canary": 1,
    }
    assert seen.signed_at == START + DAY


def test_refresh_without_changes_requests_two_files(repository: Repository, tmp_path: Path) -> None:
    with FaultServer(repository.folder) as server:
        trust = RepositoryTrust(
            tmp_path / "meta",
            root=repository.first_root,
            metadata=HttpSource(f"{server.url}/metadata", LIMITS),
            targets=HttpSource(f"{server.url}/targets", LIMITS),
            limits=LIMITS,
            now=lambda: START,
        )
        trust.refresh(NOTHING)
        server.requests.clear()
        trust.refresh(NOTHING)
        assert [path for path, _ in server.requests] == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_repository_without_signing_times_is_trusted(robot: Robot, repository: Repository) -> None:
    signed = json.loads(repository.file("timestamp").read_bytes())["signed"]
    del signed[SIGNED_AT]
    resign(repository, "timestamp", signed)
    assert robot.refresh().signed_at is None


@pytest.mark.parametrize("zone", ["Z", "+00:00"])
def test_signing_time_is_parsed_in_any_time_zone_notation(
    robot: Robot, repository: Repository, zone: str
) -> None:
    signed = json.loads(repository.file("timestamp").read_bytes())["signed"]
    resign(repository, "timestamp", signed | {SIGNED_AT: f"2026-02-28T23:00:00{zone}"})
    assert robot.refresh().signed_at == START - DAY / 24


@pytest.mark.parametrize("time", ["yesterday", 7, "2026-03-01T00:00:00", "2099-01-01T00:00:00+00:00"])
def test_implausible_signing_time_is_rejected(robot: Robot, repository: Repository, time: object) -> None:
    signed = json.loads(repository.file("timestamp").read_bytes())["signed"]
    resign(repository, "timestamp", signed | {SIGNED_AT: time})
    with pytest.raises(TrustError, check=code("trust.invalid_signing_time")):
        robot.refresh()


def test_trust_before_a_refresh_knows_no_files(robot: Robot) -> None:
    with pytest.raises(UpdateError, check=code("trust.not_refreshed")):
        robot.trust.read(FILE, len(CONTENT))


def test_trust_after_a_failed_refresh_knows_no_files(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    robot.now += 2 * DAY
    with pytest.raises(TrustError):
        robot.trust.refresh(robot.floors)
    with pytest.raises(UpdateError, check=code("trust.not_refreshed")):
        robot.trust.read(FILE, len(CONTENT))


def test_new_root_is_followed_over_many_versions(robot: Robot, repository: Repository) -> None:
    for role in ("root", "timestamp", "root", "snapshot", "targets", "root"):
        repository.rotate(role)
    repository.publish("targets")
    assert robot.refresh().versions["root"] == 7
    assert robot.fetch() == CONTENT


def test_new_root_is_followed_over_hundreds_of_versions(robot: Robot, repository: Repository) -> None:
    for _ in range(300):
        repository.rotate("timestamp")
    repository.publish()
    assert robot.refresh().versions["root"] == 301


def test_oversized_small_file_is_not_read(robot: Robot) -> None:
    robot.refresh()
    with pytest.raises(TrustError, check=code("trust.too_long")):
        robot.trust.read(FILE, len(CONTENT) - 1)


def test_missing_listed_file_can_be_retried(robot: Robot, repository: Repository) -> None:
    repository.stored(FILE).unlink()
    with pytest.raises(NotFoundError, check=code("transfer.not_found")):
        robot.fetch()


# Stored metadata after a power cut.

STORED = (
    "root.json",
    "root_history/1.root.json",
    "root_history/2.root.json",
    "timestamp.json",
    "snapshot.json",
    "targets.json",
    "channel-stable.json",
)


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("damage", ["gone", "empty", "torn", "zeros", "another file"])
def test_stored_metadata_truncated_by_a_power_cut_is_fetched_again(
    robot: Robot, repository: Repository, name: str, damage: str
) -> None:
    repository.publish("root", "channel-stable")
    robot.fetch()
    path = robot.meta / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {
                "empty": b"",
                "torn": content[: len(content) // 2],
                "zeros": bytes(len(content)),
                "another file": repository.file("channel-canary").read_bytes(),
            }[damage]
        )
    before = robot.floors
    assert robot.fetch() == CONTENT
    assert robot.floors == before


def test_leftovers_of_a_killed_process_are_removed(robot: Robot) -> None:
    robot.refresh()
    (robot.meta / "tmpab12_xyz").write_bytes(b"{")
    robot.refresh()
    assert sorted(path.name for path in robot.meta.iterdir()) == [
        "root.json",
        "root_history",
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    ]


def test_metadata_is_synced_to_disk_before_its_use(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    safe: dict[str, int] = {}
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        safe[os.readlink(f"/proc/self/fd/{fd}")] = os.fstat(fd).st_ino

    monkeypatch.setattr(os, "fsync", fsync)
    robot.refresh()
    robot.trust.read(FILE, len(CONTENT))
    stored = [robot.meta, *(path for path in robot.meta.rglob("*") if not path.is_symlink())]
    assert {str(path): path.stat().st_ino for path in stored} == {
        str(path): safe[str(path)] for path in stored
    }


def test_metadata_that_cannot_be_stored_stops_the_update(robot: Robot) -> None:
    robot.refresh()
    (robot.meta / "timestamp.json").unlink()
    (robot.meta / "timestamp.json").mkdir()
    with pytest.raises(StorageError, check=code("storage.metadata")):
        robot.refresh()


def test_malformed_initial_root_is_reported(robot: Robot) -> None:
    robot.root = b"{}"
    with pytest.raises(TrustError, check=code("trust.invalid_metadata")):
        robot.refresh()


# Arbitrary metadata.


@settings(max_examples=200)
@given(
    name=st.sampled_from(
        ["2.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json", "2.channel-stable.json"]
    ),
    at=st.floats(0, 1, exclude_max=True),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"1e999", b"[" * 5000, b'"\\ud800"', b"9" * 5000])),
    cut=st.integers(0, 40),
)
def test_mutated_metadata_raises_a_coded_error_or_changes_nothing(
    published: Repository,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    at: float,
    new: bytes,
    cut: int,
) -> None:
    robot = Robot(tmp_path_factory.mktemp("changed"), published)
    path = published.folder / "metadata" / name
    content = path.read_bytes()
    start = int(at * len(content))
    path.write_bytes(content[:start] + new + content[start + cut :])
    try:
        assert robot.fetch() == CONTENT
    except JepaRuntimeError:
        assert not robot.part.exists()
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("published") / "repository")
    repository.publish("root", "channel-stable")
    return repository
