"""Attacks after the robot saw the repository once, and the exact error of each.

The attacks are those of the specification (1.5.2) and of "Survivable Key Compromise in Software Update
Systems" (Samuel et al., CCS 2010).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from jepa_runtime.errors import FetchError, TrustError, UpdateError
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import NotFoundError
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from tests.errors import code
from tests.ota import servers
from tests.ota.downloads import QUICK
from tests.ota.repositories import CONTENT, FILE, START, Repository
from tests.ota.servers import FaultServer
from tests.ota.trusted_robots import DAY, NOTHING, Robot

Attack = Callable[[Repository], None]


def arbitrary_software(repository: Repository) -> None:
    repository.stored(FILE).write_bytes(CONTENT[::-1])


def arbitrary_metadata(repository: Repository) -> None:
    repository.file("timestamp").write_bytes(b"<html>Please log in</html>")


def endless_metadata(repository: Repository) -> None:
    with repository.file("timestamp").open("ab") as file:
        file.truncate(1 << 30)


def endless_snapshot(repository: Repository) -> None:
    """With the online keys."""
    repository.publish()
    with repository.file("snapshot").open("ab") as file:
        file.truncate(300 << 20)
    repository.signed["timestamp"].snapshot_meta = MetaFile(
        repository.signed["snapshot"].version, length=300 << 20
    )
    repository.seal("timestamp")


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
    """With the key of the timestamp."""
    repository.signed["timestamp"].version += 1
    repository.signed["timestamp"].snapshot_meta = MetaFile(1)
    repository.seal("timestamp")


def older(role: str) -> Attack:
    """With the keys of the timestamp and of the snapshot."""

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


def not_authorized(repository: Repository) -> None:
    """With the keys of another channel."""
    del repository.signed["channel-stable"].targets[FILE]
    repository.add(FILE, b"evil", role="channel-canary")
    repository.publish("channel-stable", "channel-canary")


# The attack, the file that the error names, and the code of the error.
ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "arbitrary software": (arbitrary_software, "encoder.bin", "trust.hash_mismatch"),
    "arbitrary metadata": (arbitrary_metadata, "timestamp.json", "trust.invalid_metadata"),
    "endless metadata": (endless_metadata, "timestamp.json", "trust.too_long"),
    "endless snapshot, announced": (endless_snapshot, "snapshot.json", "trust.too_long"),
    "timestamp by a wrong key": (wrong_key("timestamp"), "timestamp.json", "trust.unsigned"),
    "snapshot by a wrong key": (wrong_key("snapshot"), "3.snapshot.json", "trust.unsigned"),
    "targets by a wrong key": (wrong_key("targets"), "3.targets.json", "trust.unsigned"),
    "channel by a wrong key": (wrong_key("channel-stable"), "3.channel-stable.json", "trust.unsigned"),
    "changed after signing": (changed_after_signing, "3.channel-stable.json", "trust.unsigned"),
    "threshold not met": (threshold_not_met, "3.snapshot.json", "trust.unsigned"),
    "signature counted twice": (one_signature_counted_twice, "3.snapshot.json", "trust.unsigned"),
    "rollback of the timestamp": (older_timestamp, "timestamp.json", "trust.rollback"),
    "rollback of the snapshot": (older_snapshot, "timestamp.json", "trust.rollback"),
    "rollback of the targets": (older("targets"), "snapshot.json", "trust.rollback"),
    "rollback of a channel": (older("channel-stable"), "snapshot.json", "trust.rollback"),
    "rollback of the root": (older_root, "3.root.json", "trust.rollback"),
    "mixed with an older snapshot": (mixed_snapshot, "3.snapshot.json", "trust.rollback"),
    "mixed with an older channel": (mixed_channel, "3.channel-stable.json", "trust.rollback"),
    "mixed with another role": (another_role, "3.channel-stable.json", "trust.unsigned"),
    "role taken out of the snapshot": (role_not_in_snapshot, "3.snapshot.json", "trust.invalid_metadata"),
    "root not signed by the old keys": (root_not_signed_by_the_old, "3.root.json", "trust.unsigned"),
    "root not signed by the new keys": (root_not_signed_by_the_new, "3.root.json", "trust.unsigned"),
    "root version skipped": (root_skipped, "timestamp.json", "trust.unsigned"),
    "stolen key after its rotation": (stolen_key_after_its_rotation, "timestamp.json", "trust.unsigned"),
    "channel that is not authorized": (not_authorized, "encoder.bin", "trust.unlisted"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_reported_by_name_and_yields_no_file(
    robot: Robot, repository: Repository, name: str
) -> None:
    attack, file, expected = ATTACKS[name]
    repository.publish("root", "targets", "channel-stable")
    robot.refresh()
    attack(repository)
    with pytest.raises(TrustError, check=code(expected)) as caught:
        robot.fetch()
    assert f"{file}: " in str(caught.value)
    assert not robot.part.exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_yields_no_small_file(robot: Robot, repository: Repository, name: str) -> None:
    attack, _, _ = ATTACKS[name]
    repository.publish("root", "targets", "channel-stable")
    robot.refresh()
    attack(repository)
    with suppress(UpdateError):
        robot.refresh()
    with pytest.raises(UpdateError):
        robot.trust.read(FILE, len(CONTENT))


def test_withheld_role_stops_the_update(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    role_withheld(repository)
    with pytest.raises(NotFoundError, check=code("transfer.not_found")):
        robot.fetch()


def test_slow_metadata_stops_the_update(repository: Repository, tmp_path: Path) -> None:
    with FaultServer(repository.folder) as server:
        server.faults["metadata/timestamp.json"] = servers.slow_headers(0.01)
        source = HttpSource(f"{server.url}/metadata", QUICK)
        trust = RepositoryTrust(
            tmp_path / "meta",
            root=repository.first_root,
            metadata=source,
            targets=source,
            limits=QUICK,
            now=lambda: START,
        )
        with pytest.raises(FetchError, check=code("http.read_timeout")):
            trust.refresh(NOTHING)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "channel-stable"])
def test_frozen_repository_is_detected_when_its_signatures_expire(
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
        TrustError, match=rf"{role}(.json)? is expired at {robot.now:%F}", check=code("trust.expired")
    ):
        robot.fetch()
