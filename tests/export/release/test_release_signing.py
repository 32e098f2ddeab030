"""Signing of releases: keys, quorums, rotations and expiry, from the view of a plain TUF client."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import ExpiredMetadataError, RepositoryError, UnsignedMetadataError

from jepa_export.errors import JepaExportError
from jepa_export.release.keys import ExternalKey, KeyRing, short_id
from jepa_export.release.publish import Terms, publish
from jepa_export.release.repository import Repository, channel_role, utc_now
from jepa_export.release.roles import (
    POLICIES,
    Policy,
    Quorum,
    add_channel,
    init,
    resign,
    rotate,
)
from jepa_runtime.bundle import Bundle
from tests.errors import code
from tests.export.releases import Client, killed_after, new_repository, opened, variant

STABLE = Terms(channel="stable")
ROLES = ["root", "targets", "snapshot", "timestamp", "channel-stable"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path)


@pytest.fixture
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture
def external_key(tmp_path: Path) -> ExternalKey:
    """Return a key stored outside the folder of keys."""
    signer = CryptoSigner.generate_ecdsa()
    (tmp_path / "private.pem").write_bytes(signer.private_bytes)
    public = load_pem_private_key(signer.private_bytes, None).public_key()
    (tmp_path / "public.pem").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return ExternalKey(f"file2:{tmp_path / 'private.pem'}", tmp_path / "public.pem")


def keyids(repo: Path, role: str) -> list[str]:
    return list(opened(repo).delegator(role).get_delegated_role(role).keyids)


def make(folder: Path, **changed: object) -> Repository:
    settings = {"channels": ["stable"], "policy": Policy(), "externals": {}}
    return init(folder / "repo", KeyRing(folder / "keys"), **(settings | changed))  # type: ignore[arg-type]


def test_private_keys_are_readable_by_their_owner_only_and_not_served(repo: Path) -> None:
    keys = repo.with_name("keys")
    assert keys.stat().st_mode & 0o777 == 0o700
    files = list(keys.iterdir())
    assert len(files) == 6
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert not any(b"PRIVATE" in path.read_bytes() for path in repo.rglob("*") if path.is_file())


def test_fleet_signs_with_several_keys(tmp_path: Path) -> None:
    repo = new_repository(tmp_path, policy=POLICIES["fleet"])
    repository = opened(repo)
    quorums = {}
    for role in (*ROLES, "channel-canary"):
        known = repository.delegator(role).get_delegated_role(role)
        quorums[role] = (known.threshold, len(known.keyids))
    assert quorums == {
        "root": (3, 5),
        "targets": (2, 3),
        "channel-stable": (2, 3),
        "channel-canary": (1, 1),
        "snapshot": (1, 1),
        "timestamp": (1, 1),
    }
    Client(repo, tmp_path / "robot").updater()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"channels": ["Stable"]}, "release.invalid_channel"),
        ({"channels": ["a", "a"]}, "release.channel_exists"),
        ({"externals": {"channel-beta": []}}, "release.unknown_role"),
    ],
)
def test_invalid_policy_is_rejected_before_writing(
    tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    with pytest.raises(JepaExportError, check=code(reason)):
        make(tmp_path, **changed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("threshold", "keys"), [(0, 1), (2, 1)])
def test_unreachable_quorum_is_rejected(threshold: int, keys: int) -> None:
    with pytest.raises(JepaExportError, check=code("release.invalid_quorum")):
        Quorum(threshold, keys)


def test_keys_are_not_stored_in_the_served_folder(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("release.keys_in_repository")):
        init(
            tmp_path / "repo",
            KeyRing(tmp_path / "repo" / "keys"),
            channels=["stable"],
            policy=Policy(),
            externals={},
        )


def test_existing_repository_is_not_overwritten(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("release.repository_exists")):
        make(tmp_path)


def test_one_signature_of_two_publishes_nothing(tmp_path: Path, bundle: Bundle) -> None:
    repo = new_repository(tmp_path, policy=Policy(channel=Quorum(2, 2)))
    first, second = keyids(repo, "channel-stable")
    (away,) = repo.with_name("keys").glob(f"*.{short_id(second)}.pem")
    other_disk = tmp_path / "other disk"
    other_disk.mkdir()
    shutil.move(away, other_disk / away.name)
    with pytest.raises(JepaExportError) as refused:
        publish(opened(repo), bundle, STABLE)
    message = str(refused.value)
    assert "channel-stable needs 2 signatures, and 1 of its keys are in" in message
    assert short_id(second) in message and short_id(first) not in message
    client = Client(repo, tmp_path / "robot")
    assert client.latest() is None
    publish(opened(repo, repo.with_name("keys"), other_disk), bundle, STABLE)
    assert client.install(tmp_path / "installed").sha256 == bundle.sha256


def test_client_rejects_a_root_with_one_signature_of_two(tmp_path: Path) -> None:
    repo = new_repository(tmp_path, policy=Policy(root=Quorum(2, 2)))
    client = Client(repo, tmp_path / "robot")
    rotate(opened(repo), "root", retire=keyids(repo, "root")[0])
    signed = repo / "metadata" / "2.root.json"
    content = json.loads(signed.read_bytes())
    assert len(content["signatures"]) == 3
    del content["signatures"][1:]
    signed.write_text(json.dumps(content))
    with pytest.raises(UnsignedMetadataError):
        client.updater()


def test_client_follows_a_root_that_was_rotated_twice(repo: Path, bundle: Bundle, tmp_path: Path) -> None:
    client = Client(repo, tmp_path / "robot")
    keys = [keyids(repo, "root")]
    for _ in range(2):
        rotate(opened(repo), "root")
        keys.append(keyids(repo, "root"))
    assert len({keyid for each in keys for keyid in each}) == 3
    publish(opened(repo), bundle, STABLE)
    assert client.install(tmp_path / "installed").sha256 == bundle.sha256


@pytest.mark.parametrize("role", ROLES)
def test_only_the_new_key_signs_after_a_rotation(
    repo: Path, toy_bundle: Path, tmp_path: Path, role: str
) -> None:
    publish(opened(repo), Bundle.open(toy_bundle), STABLE)
    client = Client(repo, tmp_path / "robot")
    client.updater()
    old, new = rotate(opened(repo), role)
    assert keyids(repo, role) == [new] != [old]
    assert b"x-jepa-retiring" not in b"".join(
        path.read_bytes() for path in (repo / "metadata").glob(f"{opened(repo).root.version}.root.json")
    )
    (retired,) = repo.with_name("keys").glob(f"*.{short_id(old)}.pem")
    retired.unlink()
    following = variant(toy_bundle, tmp_path / "following", "1.2.4")
    publish(opened(repo), following, STABLE)
    assert client.install(tmp_path / "installed").sha256 == following.sha256
    assert Client(repo, tmp_path / "new robot").latest() is not None
    resign(opened(repo), within=timedelta(days=1000))
    client.updater()


@pytest.mark.parametrize("role", ROLES)
def test_killed_rotation_affects_no_client_and_is_completed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    for writes in range(10):
        (tmp_path / str(writes)).mkdir()
        repo = new_repository(tmp_path / str(writes))
        client = Client(repo, tmp_path / str(writes) / "robot")
        client.updater()
        (old,) = keyids(repo, role)
        killed = killed_after(writes, monkeypatch, partial(rotate, opened(repo), role))
        client.updater()
        if killed:
            rotate(opened(repo), role)
        client.updater()
        (new,) = keyids(repo, role)
        assert new != old
        if not killed:
            break
    assert writes == {"root": 1, "targets": 5, "snapshot": 4, "timestamp": 3, "channel-stable": 4}[role]


def test_rotation_with_several_keys_requires_the_one_to_retire(tmp_path: Path) -> None:
    repo = new_repository(tmp_path, policy=Policy(channel=Quorum(2, 3)))
    before = keyids(repo, "channel-stable")
    with pytest.raises(JepaExportError, check=code("release.key_ambiguous")):
        rotate(opened(repo), "channel-stable")
    old, new = rotate(opened(repo), "channel-stable", retire=short_id(before[1]))
    assert old == before[1]
    assert keyids(repo, "channel-stable") == [before[0], before[2], new]
    Client(repo, tmp_path / "robot").updater()


def test_rotation_that_would_leave_too_few_signatures_is_rejected(tmp_path: Path) -> None:
    repo = new_repository(tmp_path, policy=Policy(targets=Quorum(2, 3)))
    old, other, third = keyids(repo, "targets")
    for keyid in (other, third):
        (away,) = repo.with_name("keys").glob(f"*.{short_id(keyid)}.pem")
        away.unlink()
    before = sorted(repo.with_name("keys").iterdir())
    with pytest.raises(JepaExportError, check=code("release.too_few_keys")):
        rotate(opened(repo), "targets", retire=old)
    assert sorted(repo.with_name("keys").iterdir()) == before
    Client(repo, tmp_path / "robot").updater()


def test_unknown_role_is_answered_with_the_existing_ones(repo: Path) -> None:
    with pytest.raises(JepaExportError, check=code("release.unknown_role")):
        rotate(opened(repo), "boss")


def test_private_key_readable_by_others_is_not_used(repo: Path, bundle: Bundle) -> None:
    (path,) = repo.with_name("keys").glob("channel-stable.*.pem")
    path.chmod(0o640)
    with pytest.raises(JepaExportError, check=code("release.key_readable_by_others")):
        publish(opened(repo), bundle, STABLE)


def test_damaged_private_key_is_named(repo: Path, bundle: Bundle) -> None:
    (path,) = repo.with_name("keys").glob("snapshot.*.pem")
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(JepaExportError, check=code("release.key_unusable")):
        publish(opened(repo), bundle, STABLE)


def test_key_stored_elsewhere_signs_by_its_uri(
    tmp_path: Path, bundle: Bundle, external_key: ExternalKey
) -> None:
    repository = make(tmp_path, externals={"channel-stable": [external_key]})
    (keyid,) = keyids(repository.folder, "channel-stable")
    assert repository.targets.get_key(keyid).keytype == "ecdsa"
    (named,) = (tmp_path / "keys").glob("channel-stable.*")
    assert named.suffix == ".uri" and named.read_text() == external_key.uri
    publish(opened(repository.folder), bundle, STABLE)
    client = Client(repository.folder, tmp_path / "robot")
    assert client.install(tmp_path / "installed").sha256 == bundle.sha256


def test_rotation_may_add_a_key_stored_elsewhere(
    repo: Path, tmp_path: Path, external_key: ExternalKey
) -> None:
    rotate(opened(repo), "timestamp", external=external_key)
    (tmp_path / "private.pem").unlink()
    with pytest.raises(JepaExportError, check=code("release.key_unusable")):
        resign(opened(repo), within=timedelta(days=8))


def test_key_that_does_not_match_its_public_half_is_rejected(
    tmp_path: Path, external_key: ExternalKey
) -> None:
    Path(external_key.uri.removeprefix("file2:")).write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    with pytest.raises(JepaExportError, check=code("release.key_unusable")):
        make(tmp_path, externals={"root": [external_key]})
    external_key.public.write_text("no key")
    with pytest.raises(JepaExportError, check=code("release.key_unusable")):
        make(tmp_path, externals={"root": [external_key]})
    with pytest.raises(JepaExportError, check=code("release.too_many_keys")):
        make(tmp_path, externals={"root": [external_key, external_key]})


def at(repo: Path, days: float) -> Repository:
    with Repository.opened(
        repo, KeyRing(repo.with_name("keys")), lambda: utc_now() + timedelta(days=days)
    ) as repository:
        return repository


@pytest.mark.parametrize(
    ("days", "due"),
    [
        (0, []),
        (6, ["timestamp"]),
        (11, ["snapshot", "timestamp"]),
        (23, ["channel-canary", "snapshot", "timestamp"]),
        (400, ["channel-canary", "channel-stable", "root", "snapshot", "targets", "timestamp"]),
    ],
)
def test_resign_renews_metadata_that_expires_soon(
    repo: Path, tmp_path: Path, days: float, due: list[str]
) -> None:
    before = {role: signed.version for role, signed in opened(repo).signed.items()}
    assert resign(at(repo, days), None) == (due, [])
    Client(repo, tmp_path / "robot").updater()
    after = {role: signed.version for role, signed in opened(repo).signed.items()}
    assert {role for role in after if after[role] == before[role] + 1} == set(due)


def test_expired_repository_is_restored_by_signing(tmp_path: Path, bundle: Bundle) -> None:
    repository = make(tmp_path, now=lambda: utc_now() - timedelta(days=12))
    client = Client(repository.folder, tmp_path / "robot")
    with pytest.raises(ExpiredMetadataError):
        client.updater()
    assert resign(opened(repository.folder), None) == (["snapshot", "timestamp"], [])
    client.updater()


def test_resign_continues_without_an_unavailable_key(repo: Path, tmp_path: Path) -> None:
    (offline,) = repo.with_name("keys").glob("root.*.pem")
    offline.unlink()
    signed, missing = resign(at(repo, 360), None)
    assert missing == ["root"]
    assert signed == ["channel-canary", "channel-stable", "snapshot", "targets", "timestamp"]
    Client(repo, tmp_path / "robot").updater()


def test_client_finds_an_added_channel(repo: Path, bundle: Bundle, tmp_path: Path) -> None:
    client = Client(repo, tmp_path / "robot")
    client.updater()
    add_channel(opened(repo), "beta", Policy(channel=Quorum(1, 2)), [])
    publish(opened(repo), bundle, Terms(channel="beta"))
    assert client.install(tmp_path / "installed", "beta").sha256 == bundle.sha256
    assert len(keyids(repo, channel_role("beta"))) == 2
    for name, reason in (("beta", "release.channel_exists"), ("Beta", "release.invalid_channel")):
        with pytest.raises(JepaExportError, check=code(reason)):
            add_channel(opened(repo), name, Policy(), [])


def test_channel_key_signs_no_other_channel(repo: Path, tmp_path: Path) -> None:
    """Simulate an attacker with the key of canary who replaces the metadata of stable with that of canary."""
    repository = opened(repo)
    repository.signed["channel-stable"] = repository.signed["channel-canary"]
    (stable,) = repo.with_name("keys").glob("channel-stable.*.pem")
    stable.unlink()
    with pytest.raises(JepaExportError, check=code("release.too_few_keys")):
        repository.commit("channel-stable")
    canary, listing = (repo / "metadata" / f"1.channel-{name}.json" for name in ("canary", "stable"))
    shutil.copy(canary, listing)
    with pytest.raises(RepositoryError):
        Client(repo, tmp_path / "robot").latest()
