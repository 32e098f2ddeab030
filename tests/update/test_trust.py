"""What a robot believes of a repository: what is signed, current and complete, and nothing else.

The attacks are those of the specification (1.5.2) and of "Survivable Key Compromise in Software Update
Systems" (Samuel et al., CCS 2010).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from jepa_runtime.errors import FetchError, JepaRuntimeError, StorageError, TrustError, UpdateError
from jepa_runtime.update.fetch import FolderSource, HttpSource, Limits, NotFoundError
from jepa_runtime.update.trust import SIGNED_AT, Floors, Seen, Trust
from tests.update import servers
from tests.update.repositories import CONTENT, FILE, START, Repository
from tests.update.servers import FaultServer

NOTHING = Floors({}, None)
DAY = timedelta(days=1)
LIMITS = Limits(read_s=0.3, free_bytes=0)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


class Robot:
    """A robot, its memory, and the repository as it sees it."""

    def __init__(self, home: Path, repository: Repository) -> None:
        self.meta = home / "meta"
        self.part = home / "file.part"
        self.root = repository.first_root
        self.folder = repository.folder
        self.floors = NOTHING
        self.now = repository.now
        self.trust = self._trust()

    def _trust(self) -> Trust:
        return Trust(
            self.meta,
            root=self.root,
            metadata=FolderSource(self.folder / "metadata"),
            targets=FolderSource(self.folder / "targets"),
            limits=LIMITS,
            now=lambda: self.now,
        )

    def refresh(self) -> Seen:
        self.trust = self._trust()
        seen = self.trust.refresh(self.floors)
        self.floors = Floors(seen.versions, seen.signed_at)
        return seen

    def fetch(self) -> bytes:
        """All of it: what is current, and the file."""
        self.refresh()
        self.trust.download(FILE, self.part)
        return self.part.read_bytes()


@pytest.fixture
def robot(tmp_path: Path, repository: Repository) -> Robot:
    return Robot(tmp_path, repository)


# What is as it should be.


def test_a_file_that_is_signed_is_trusted(robot: Robot) -> None:
    assert robot.fetch() == CONTENT
    assert robot.trust.read(FILE, len(CONTENT)) == CONTENT
    target = robot.trust.target(FILE)
    assert target.path == FILE and target.length == len(CONTENT)
    assert target.stored_path == f"models/stable/toy/1.0/{target.sha256}.encoder.bin"


def test_a_refresh_tells_what_it_saw(robot: Robot, repository: Repository) -> None:
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
    assert seen.expires == {
        "root": START + 365 * DAY,
        "targets": START + 180 * DAY,
        "snapshot": START + 8 * DAY,
        "timestamp": START + 2 * DAY,
    }


def test_where_nothing_changed_two_files_are_asked_for(repository: Repository, tmp_path: Path) -> None:
    with FaultServer(repository.folder) as server:
        trust = Trust(
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


def test_a_repository_without_signing_times_is_trusted(robot: Robot, repository: Repository) -> None:
    signed = json.loads(repository.file("timestamp").read_bytes())["signed"]
    del signed[SIGNED_AT]
    resign(repository, "timestamp", signed)
    assert robot.refresh().signed_at is None


def resign(repository: Repository, role: str, signed: dict[str, object]) -> None:
    """Sign what python-tuf would not write."""
    payload = encode_canonical(signed) or ""
    signatures = [signer.sign(payload.encode()).to_dict() for signer in repository.signers[role]]
    repository.file(role).write_text(json.dumps({"signed": signed, "signatures": signatures}))


@pytest.mark.parametrize("time", ["yesterday", 7, "2026-03-01T00:00:00", "2099-01-01T00:00:00+00:00"])
def test_a_signing_time_that_cannot_be_is_refused(robot: Robot, repository: Repository, time: object) -> None:
    signed = json.loads(repository.file("timestamp").read_bytes())["signed"]
    resign(repository, "timestamp", signed | {SIGNED_AT: time})
    with pytest.raises(
        TrustError, match=r"timestamp: x-jepa-signed-at is .* no time in UTC before it expires"
    ):
        robot.refresh()


def test_before_a_refresh_nothing_is_known(robot: Robot) -> None:
    with pytest.raises(UpdateError, match="nothing is known of it before a refresh"):
        robot.trust.target(FILE)


def test_after_a_refresh_that_failed_nothing_is_known_any_more(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    robot.now += 2 * DAY
    with pytest.raises(TrustError):
        robot.trust.refresh(robot.floors)
    with pytest.raises(UpdateError, match="nothing is known"):
        robot.trust.target(FILE)


def test_a_new_root_is_followed_over_many_versions(robot: Robot, repository: Repository) -> None:
    for role in ("root", "timestamp", "root", "snapshot", "targets", "root"):
        repository.rotate(role)
    repository.publish("targets")
    assert robot.refresh().versions["root"] == 7
    assert robot.fetch() == CONTENT


def test_what_is_listed_without_a_sha256_has_no_name_to_be_stored_under(
    robot: Robot, repository: Repository
) -> None:
    repository.signed["channel-stable"].targets[FILE].hashes = {"sha512": "0" * 128}
    repository.publish("channel-stable")
    robot.refresh()
    with pytest.raises(TrustError, match=r"encoder.bin: is listed without its SHA-256"):
        robot.trust.target(FILE)


def test_a_small_file_that_is_too_large_is_not_read(robot: Robot) -> None:
    robot.refresh()
    with pytest.raises(TrustError, match="has 8000 bytes, and may have 7999"):
        robot.trust.read(FILE, len(CONTENT) - 1)


def test_a_listed_file_that_is_not_there_can_be_tried_again(robot: Robot, repository: Repository) -> None:
    repository.stored(FILE).unlink()
    with pytest.raises(NotFoundError, match=r"encoder.bin: no such file"):
        robot.fetch()


# Attacks: what the attacker does after the robot saw the repository once, and the exact error that it gives.

Attack = Callable[[Repository], None]


def arbitrary_software(repository: Repository) -> None:
    repository.stored(FILE).write_bytes(CONTENT[::-1])


def arbitrary_metadata(repository: Repository) -> None:
    repository.file("timestamp").write_bytes(b"<html>Please log in</html>")


def endless_metadata(repository: Repository) -> None:
    with repository.file("timestamp").open("ab") as file:
        file.truncate(1 << 30)


def wrong_key(role: str) -> Attack:
    def attack(repository: Repository) -> None:
        repository.signers[role] = [CryptoSigner.generate_ed25519()]
        repository.publish(*{role} - {"snapshot", "timestamp"})

    return attack


def changed_after_signing(repository: Repository) -> None:
    repository.publish("channel-stable")
    path = repository.file("channel-stable")
    path.write_bytes(path.read_bytes().replace(b'"length":8000', b'"length":8001'))


def threshold_not_met(repository: Repository) -> None:
    root = repository.signed["root"]
    root.add_key(CryptoSigner.generate_ed25519().public_key, "snapshot")
    root.roles["snapshot"].threshold = 2
    repository.publish("root")


def one_signature_counted_twice(repository: Repository) -> None:
    threshold_not_met(repository)
    path = repository.file("snapshot")
    fields = json.loads(path.read_bytes())
    unused = next(
        keyid
        for keyid in repository.signed["root"].roles["snapshot"].keyids
        if keyid != fields["signatures"][0]["keyid"]
    )
    fields["signatures"].append(fields["signatures"][0] | {"keyid": unused})
    path.write_text(json.dumps(fields))


def older_timestamp(repository: Repository) -> None:
    repository.signed["timestamp"].version = 1
    repository.seal("timestamp")


def older_snapshot(repository: Repository) -> None:
    """By who has the key of the timestamp."""
    repository.signed["timestamp"].version += 1
    repository.signed["timestamp"].snapshot_meta = MetaFile(1)
    repository.seal("timestamp")


def older(role: str) -> Attack:
    """By who has the keys of the timestamp and of the snapshot."""

    def attack(repository: Repository) -> None:
        for name in ("snapshot", "timestamp"):
            repository.signed[name].version += 1
        repository.signed["snapshot"].meta[f"{role}.json"] = MetaFile(1)
        repository.seal("snapshot")
        repository.signed["timestamp"].snapshot_meta = MetaFile(repository.signed["snapshot"].version)
        repository.seal("timestamp")

    return attack


def older_root(repository: Repository) -> None:
    shutil.copy(repository.file("root"), repository.file("root", 3))


def mixed_snapshot(repository: Repository) -> None:
    repository.publish()
    shutil.copy(repository.file("snapshot", 2), repository.file("snapshot"))


def mixed_channel(repository: Repository) -> None:
    repository.publish("channel-stable")
    shutil.copy(repository.file("channel-stable", 2), repository.file("channel-stable"))


def another_role(repository: Repository) -> None:
    repository.publish("channel-stable")
    shutil.copy(repository.file("channel-canary"), repository.file("channel-stable"))


def role_withheld(repository: Repository) -> None:
    repository.publish("channel-stable")
    repository.file("channel-stable").unlink()


def role_not_in_snapshot(repository: Repository) -> None:
    repository.publish()
    del repository.signed["snapshot"].meta["channel-stable.json"]
    repository.seal("snapshot")


def root_not_signed_by_the_old(repository: Repository) -> None:
    repository.rotate("root")
    repository.seal("root")


def root_not_signed_by_the_new(repository: Repository) -> None:
    old = repository.signers["root"]
    repository.rotate("root")
    repository.signers["root"] = old
    repository.seal("root")


def root_skipped(repository: Repository) -> None:
    repository.rotate("timestamp")
    repository.rotate("timestamp")
    repository.publish()
    repository.file("root", 3).unlink()


def stolen_key_after_its_rotation(repository: Repository) -> None:
    stolen = repository.signers["timestamp"]
    repository.rotate("timestamp")
    repository.publish()
    repository.signers["timestamp"] = stolen
    repository.publish()


def not_authorised(repository: Repository) -> None:
    """By who has the keys of another channel."""
    del repository.signed["channel-stable"].targets[FILE]
    repository.add(FILE, b"evil", role="channel-canary")
    repository.publish("channel-stable", "channel-canary")


ATTACKS: dict[str, tuple[Attack, str]] = {
    "arbitrary software": (arbitrary_software, "encoder.bin: what came is not what was signed"),
    "arbitrary metadata": (arbitrary_metadata, "timestamp.json: is no signed metadata"),
    "endless metadata": (endless_metadata, "timestamp.json: longer than the 16384 bytes that it may have"),
    "timestamp by a wrong key": (
        wrong_key("timestamp"),
        "timestamp.json: is not signed by enough of the keys",
    ),
    "snapshot by a wrong key": (
        wrong_key("snapshot"),
        "3.snapshot.json: is not signed by enough of the keys",
    ),
    "targets by a wrong key": (wrong_key("targets"), "3.targets.json: is not signed by enough of the keys"),
    "channel by a wrong key": (wrong_key("channel-stable"), "3.channel-stable.json: is not signed by enough"),
    "changed after signing": (changed_after_signing, "3.channel-stable.json: is not signed by enough"),
    "threshold not met": (threshold_not_met, r"3.snapshot.json: is not signed by enough .*1/2 keys"),
    "signature counted twice": (one_signature_counted_twice, "3.snapshot.json: is not signed by enough"),
    "rollback of the timestamp": (older_timestamp, "timestamp.json: is older than what was seen"),
    "rollback of the snapshot": (older_snapshot, "timestamp.json: is older than what was seen"),
    "rollback of the targets": (older("targets"), "snapshot.json: is older than what was seen"),
    "rollback of a channel": (older("channel-stable"), "snapshot.json: is older than what was seen"),
    "rollback of the root": (older_root, "3.root.json: is older than what was seen, or not the version"),
    "mixed with an older snapshot": (
        mixed_snapshot,
        "3.snapshot.json: .* not the version that was announced",
    ),
    "mixed with an older channel": (
        mixed_channel,
        "3.channel-stable.json: .* not the version that was announced",
    ),
    "mixed with another role": (another_role, "3.channel-stable.json: is not signed by enough"),
    "role taken out of the snapshot": (
        role_not_in_snapshot,
        "3.snapshot.json: cannot be trusted .*missing info",
    ),
    "root not signed by the old keys": (root_not_signed_by_the_old, "3.root.json: is not signed by enough"),
    "root not signed by the new keys": (root_not_signed_by_the_new, "3.root.json: is not signed by enough"),
    "root version skipped": (root_skipped, "timestamp.json: is not signed by enough"),
    "stolen key after its rotation": (
        stolen_key_after_its_rotation,
        "timestamp.json: is not signed by enough",
    ),
    "channel that is not authorised": (
        not_authorised,
        "encoder.bin: no role that is trusted for it lists it",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_told_by_its_name_and_gives_nothing(
    robot: Robot, repository: Repository, name: str
) -> None:
    attack, message = ATTACKS[name]
    repository.publish("root", "targets", "channel-stable")
    robot.refresh()
    attack(repository)
    with pytest.raises(TrustError, match=message):
        robot.fetch()
    assert not robot.part.exists()


def test_a_role_that_is_withheld_stops_the_update(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    role_withheld(repository)
    with pytest.raises(NotFoundError, match=r"2.channel-stable.json: no such file"):
        robot.fetch()


def test_metadata_that_comes_too_slowly_stops_the_update(repository: Repository, tmp_path: Path) -> None:
    with FaultServer(repository.folder) as server:
        server.faults["metadata/timestamp.json"] = servers.slow_headers(0.01)
        source = HttpSource(f"{server.url}/metadata", LIMITS)
        trust = Trust(
            tmp_path / "meta",
            root=repository.first_root,
            metadata=source,
            targets=source,
            limits=LIMITS,
            now=lambda: START,
        )
        with pytest.raises(FetchError, match=r"timestamp.json: the server fell silent, or is too slow"):
            trust.refresh(NOTHING)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "channel-stable"])
def test_a_repository_that_stands_still_is_noticed_when_its_signatures_expire(
    robot: Robot, repository: Repository, role: str
) -> None:
    robot.fetch()
    expires = {"root": 365, "targets": 180, "channel-stable": 90, "snapshot": 7, "timestamp": 1}[role]
    repository.now = robot.now = START + expires * DAY
    others = {"root": ("targets", "channel-stable"), "targets": ("channel-stable",), "channel-stable": ()}
    if role in others:
        repository.publish(*others[role])
    elif role == "snapshot":
        repository.signed["timestamp"].version += 1
        repository.seal("timestamp")
    with pytest.raises(
        TrustError, match=rf"{role}(.json)? is expired at {robot.now:%F} 00:00 UTC, by the clock"
    ):
        robot.fetch()


# The clock.


def test_a_clock_that_is_ahead_is_named_as_a_reason(robot: Robot) -> None:
    robot.now = START + 4000 * DAY
    with pytest.raises(TrustError, match=r"is expired at 2037-02-11 .* if it is ahead, set it"):
        robot.refresh()


def test_a_clock_that_was_set_back_revives_nothing(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    robot.refresh()
    repository.now += 30 * DAY
    repository.publish("channel-stable")
    robot.now = repository.now
    robot.refresh()
    shutil.rmtree(robot.meta)
    robot.floors = Floors({}, robot.floors.signed_at)
    robot.folder, robot.now = old, START - 3650 * DAY
    with pytest.raises(
        TrustError,
        match=r"timestamp.json is expired at 2026-03-31 00:00 UTC, the latest signature seen; the clock of "
        r"this robot says 2016-03-03 00:00: set it",
    ):
        robot.refresh()


def test_a_clock_that_starts_in_1970_does_not_stop_updates(robot: Robot) -> None:
    robot.now = datetime(1970, 1, 1, tzinfo=UTC)
    assert robot.fetch() == CONTENT
    assert robot.fetch() == CONTENT


def test_a_time_that_was_seen_is_not_forgotten(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    repository.now -= DAY / 2
    repository.publish()
    assert robot.refresh().signed_at == START


# Metadata that got lost.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "channel-stable"])
def test_floors_hold_where_the_metadata_got_lost(robot: Robot, repository: Repository, role: str) -> None:
    repository.publish("root", "targets", "channel-stable")
    robot.refresh()
    version = robot.floors.versions[role]
    shutil.rmtree(robot.meta)
    robot.floors = Floors({role: version + 1}, None)
    with pytest.raises(
        TrustError, match=f"^{role}: version {version} is offered, but version {version + 1} was seen before"
    ):
        robot.refresh()


def test_an_old_state_of_the_repository_is_refused_where_the_metadata_got_lost(
    robot: Robot, repository: Repository
) -> None:
    old = repository.copy("old")
    repository.publish("channel-stable")
    robot.refresh()
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2 was seen before"):
        robot.fetch()


def test_a_role_that_has_gone_keeps_its_floor(robot: Robot, repository: Repository) -> None:
    robot.floors = Floors({"channel-old": 7}, None)
    assert robot.refresh().versions["channel-old"] == 7


def test_after_a_theft_new_keys_undo_versions_that_the_thief_drove_up(
    robot: Robot, repository: Repository
) -> None:
    robot.refresh()
    honest = {role: repository.signed[role].version for role in ("timestamp", "snapshot")}
    for role in honest:
        repository.signed[role].version = 2**31
    repository.now += DAY / 2
    repository.write("snapshot")
    repository.write("timestamp")
    robot.refresh()
    assert robot.floors.versions["timestamp"] == 2**31

    for role, version in honest.items():
        repository.signed[role].version = version
    repository.now -= DAY / 4
    repository.publish("channel-stable")
    with pytest.raises(TrustError, match="is older than what was seen"):
        robot.refresh()
    repository.rotate("timestamp", "snapshot")
    repository.publish("channel-stable")
    for _ in range(2):
        assert robot.fetch() == CONTENT
    assert robot.floors.versions["timestamp"] == 3
    assert robot.floors.signed_at == repository.now


def test_a_time_that_a_thief_drove_up_ends_with_the_keys_that_were_stolen(
    robot: Robot, repository: Repository
) -> None:
    honest, repository.now = repository.now, START + 9999 * DAY
    repository.publish()
    robot.refresh()
    repository.now = honest
    repository.rotate("timestamp")
    repository.publish("root", "targets", "channel-stable")
    assert robot.fetch() == CONTENT
    assert robot.floors.signed_at == START


@pytest.mark.parametrize("lost", ["nothing", "the root before", "the root before, and another file is there"])
def test_a_root_that_is_installed_by_hand_ends_floors_if_it_is_known_which_keys_were_before(
    robot: Robot, repository: Repository, lost: str
) -> None:
    repository.publish()
    robot.refresh()
    repository.rotate("timestamp", "snapshot")
    for role in ("snapshot", "timestamp"):
        repository.signed[role].version = 1
        repository.write(role)
    robot.root = repository.file("root").read_bytes()
    before = robot.meta / "root_history" / "1.root.json"
    if lost == "the root before":
        before.unlink()
    elif lost != "nothing":
        before.write_bytes(repository.file("channel-stable").read_bytes())
    if lost == "nothing":
        assert robot.refresh().versions["timestamp"] == 1
    else:
        with pytest.raises(TrustError, match="version 1 is offered, but version 2 was seen before"):
            robot.refresh()


def test_a_new_key_beside_the_old_one_ends_no_floor(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    repository.publish()
    robot.refresh()
    root = repository.signed["root"]
    root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    repository.publish("root")
    shutil.copy(repository.file("root"), old / "metadata")
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2 was seen before"):
        robot.refresh()


def test_other_keys_of_the_root_alone_end_no_floor(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    repository.publish()
    robot.refresh()
    repository.rotate("root")
    shutil.copy(repository.file("root"), old / "metadata")
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2 was seen before"):
        robot.refresh()


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
def test_stored_metadata_that_a_power_cut_tore_is_fetched_again(
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


def test_what_a_process_that_died_left_is_cleared_away(robot: Robot) -> None:
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


def test_all_metadata_is_safe_on_the_disk_before_it_is_used(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: dict[str, int] = {}
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        safe[os.readlink(f"/proc/self/fd/{fd}")] = os.fstat(fd).st_ino

    monkeypatch.setattr(os, "fsync", fsync)
    robot.refresh()
    robot.trust.target(FILE)
    stored = [robot.meta, *(path for path in robot.meta.rglob("*") if not path.is_symlink())]
    assert {str(path): path.stat().st_ino for path in stored} == {
        str(path): safe[str(path)] for path in stored
    }


def test_metadata_that_cannot_be_stored_stops_the_update(robot: Robot) -> None:
    robot.refresh()
    (robot.meta / "timestamp.json").unlink()
    (robot.meta / "timestamp.json").mkdir()
    with pytest.raises(StorageError, match="meta: cannot be used: Is a directory"):
        robot.refresh()


def test_a_root_that_came_with_the_robot_and_is_none_is_told(robot: Robot) -> None:
    robot.root = b"{}"
    with pytest.raises(TrustError, match="the root that came with the robot: is no signed metadata"):
        robot.refresh()


# Whatever a repository says.


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(
        ["2.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json", "2.channel-stable.json"]
    ),
    at=st.floats(0, 1, exclude_max=True),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"1e999", b"[" * 5000, b'"\\ud800"', b"9" * 5000])),
    cut=st.integers(0, 40),
)
def test_changed_metadata_is_an_error_of_ours_or_changes_nothing(
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
