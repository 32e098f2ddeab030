"""Roles and their keys: new repositories, new channels, key rotation, re-signing.

Store the keys of root and targets on disks that are connected only when needed; the keys of channels,
snapshot and timestamp are needed for each release.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Root, Snapshot, Targets, Timestamp

from jepa_export.errors import JepaExportError
from jepa_export.release.keys import ExternalKey, KeyRing, short_id
from jepa_export.release.repository import (
    METADATA,
    TARGETS,
    Repository,
    channel_role,
    check_lifetime,
    set_lifetime,
    utc_now,
)
from jepa_runtime.ota.trust import SIGNED_AT
from jepa_runtime.util import atomic_files

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# models/CHANNEL/MODEL_ID/latest.json has four path components; a star matches one.
_SEGMENTS = range(4, 9)
_RETIRING = "x-jepa-retiring"
# Limit for one role: each key is a file, and part of the metadata that every robot reads.
_MAX_KEYS = 100

Externals = Mapping[str, Sequence[ExternalKey]]
"""External keys by role."""


@dataclass(frozen=True)
class Quorum:
    """The number of keys of a role, and how many of them must sign.

    Raises:
        JepaExportError: The numbers are invalid.
    """

    threshold: int
    keys: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys <= _MAX_KEYS:
            raise JepaExportError(
                f"a threshold of {self.threshold} with {self.keys} keys is invalid: choose 1 to {_MAX_KEYS} "
                "keys, and a threshold from 1 to the number of keys",
                code="release.invalid_quorum",
            )


_ONE = Quorum(1, 1)


@dataclass(frozen=True)
class Policy:
    """The quorum of each role; ``canary`` is that of the channel of this name."""

    root: Quorum = _ONE
    targets: Quorum = _ONE
    channel: Quorum = _ONE
    canary: Quorum = _ONE

    def of(self, role: str) -> Quorum:
        """Return the quorum of a role."""
        if role == channel_role("canary"):
            return self.canary
        return {"root": self.root, "targets": self.targets, "snapshot": _ONE, "timestamp": _ONE}.get(
            role, self.channel
        )


POLICIES = {
    "standard": Policy(root=Quorum(2, 3)),
    "dev": Policy(),
    "fleet": Policy(root=Quorum(3, 5), targets=Quorum(2, 3), channel=Quorum(2, 3)),
}


def init(
    folder: Path,
    keys: KeyRing,
    *,
    channels: Sequence[str],
    policy: Policy,
    externals: Externals,
    lifetimes: Mapping[str, int] = MappingProxyType({}),
    now: Callable[[], datetime] = utc_now,
) -> Repository:
    """Create a repository without releases, and the keys that sign it.

    Args:
        folder: Folder of the repository.
        keys: Folders of keys.
        channels: Names.
        policy: Quorum of each role.
        externals: External keys of each role; the other keys of its quorum are created.
        lifetimes: Lifetime of signatures in days, for roles that differ from the default.
        now: Clock.

    Raises:
        JepaExportError: The repository exists, the keys would be in the served folder, or a name or key is
            invalid.
        StorageError: A file cannot be written.
    """
    metadata = folder / METADATA
    if metadata.exists() and any(metadata.iterdir()):
        raise JepaExportError(
            f"{metadata}: contains a repository, or files of an interrupted init: choose another folder, or "
            "remove this one",
            code="release.repository_exists",
        )
    for private in keys.folders:
        if private.resolve().is_relative_to(folder.resolve()):
            raise JepaExportError(
                f"{private}: lies in {folder}, which is served: store keys outside (--keys)",
                code="release.keys_in_repository",
            )
    roles = ["root", "targets", "snapshot", "timestamp", *map(channel_role, channels)]
    if unknown := sorted(set(externals) - set(roles)):
        raise JepaExportError(
            f"--signer {unknown[0]}: unknown role: choose one of {', '.join(roles)}",
            code="release.unknown_role",
        )
    if unknown := sorted(set(lifetimes) - set(roles)):
        raise JepaExportError(
            f"--lifetime {unknown[0]}: unknown role: choose one of {', '.join(roles)}",
            code="release.unknown_role",
        )
    for role, days in lifetimes.items():
        check_lifetime(role, days)
    for name in channels:
        _check_channel(name, list(channels))
    atomic_files.make_folder(metadata)
    atomic_files.make_folder(folder / TARGETS)
    root, targets = Root(consistent_snapshot=True), Targets(delegations=Delegations({}, {}))
    for role in roles[:4]:
        quorum = policy.of(role)
        root.roles[role].threshold = quorum.threshold
        for key in _new_keys(keys, role, quorum, externals):
            root.add_key(key, role)
    signed = {"root": root, "targets": targets, "snapshot": Snapshot(meta={}), "timestamp": Timestamp()}
    repository = Repository(folder, keys, now, signed, before=None)
    for name in channels:
        _delegate(repository, name, policy, externals)
    for role, days in lifetimes.items():
        set_lifetime(repository.delegator(role).get_delegated_role(role), days)
    repository.commit(*(role for role in roles if role not in ("snapshot", "timestamp")))
    return repository


def add_channel(repository: Repository, name: str, policy: Policy, externals: Sequence[ExternalKey]) -> None:
    """Add a channel without releases.

    Raises:
        JepaExportError: The name is invalid or exists, or too few keys are available.
        StorageError: A file cannot be written.
    """
    _check_channel(name, [*repository.channels, name])
    repository.require("targets")
    _delegate(repository, name, policy, {channel_role(name): externals})
    repository.commit("targets", channel_role(name))


def rotate(
    repository: Repository, role: str, *, retire: str | None = None, external: ExternalKey | None = None
) -> tuple[str, str]:
    """Replace a key of a role by a new one, or finish an interrupted rotation of the role.

    Args:
        repository: Repository opened for changes.
        role: Name of the role.
        retire: First characters of the ID of the old key; None: the role has only one key.
        external: New key outside the key folders; None: a key is created.

    Returns:
        The IDs of the old and the new key.

    Raises:
        JepaExportError: There is no such role or key, or too few keys are available.
        StorageError: A file cannot be written.
    """
    delegator = repository.delegator(role)
    channel = next((name for name in repository.channels if role in repository.listings(name)), None)
    if channel is not None:
        raise JepaExportError(
            f"{role} is signed with the keys of its channel: rotate {channel_role(channel)}",
            code="release.role_is_listing",
        )
    if role == "timestamp":
        # The signing time ends with the old key, for robots as well.
        repository.signed[role].unrecognized_fields.pop(SIGNED_AT, None)
    known = delegator.get_delegated_role(role)
    if begun := known.unrecognized_fields.get(_RETIRING):
        return _finish_rotation(repository, role, str(begun))
    old = _chosen(role, known.keyids, retire)
    available = len(set(repository.available_keys(role)) - {old}) + 1
    if available < known.threshold:
        raise JepaExportError(
            f"{role} needs {known.threshold} signatures, and with a new key instead of {short_id(old)} only "
            f"{available} keys are available: also pass the folders that have the other keys (--keys)",
            code="release.too_few_keys",
        )
    if role != "root":
        repository.require("root" if delegator is repository.root else "targets")
    key = repository.keys.create(role) if external is None else repository.keys.adopt(role, external)
    delegator.add_key(key, role)
    if role == "root" or delegator is not repository.root:
        delegator.revoke_key(old, role)
        repository.commit(*(("root",) if role == "root" else ("targets", *_with_listings(repository, role))))
        return old, key.keyid
    # Root and the metadata of this role are two files, which cannot change at the same moment: in between,
    # both keys are valid.
    known.unrecognized_fields[_RETIRING] = old
    repository.commit("root")
    return _finish_rotation(repository, role, old)


def resign(repository: Repository, within: timedelta | None = None) -> tuple[list[str], list[str]]:
    """Sign roles that expire soon.

    Args:
        repository: Repository opened for changes.
        within: Remaining lifetime below which a role is signed; None: a quarter of its lifetime.

    Returns:
        The roles that were signed, and those that expire soon but have too few keys available.

    Raises:
        JepaExportError: Too few keys of snapshot or timestamp are available.
        StorageError: A file cannot be written.
    """
    now = repository.now()
    expiring = [
        role
        for role, signed in sorted(repository.signed.items())
        if signed.expires - now <= (repository.lifetime(role) / 4 if within is None else within)
    ]
    signable = [
        role
        for role in expiring
        if len(repository.available_keys(role))
        >= repository.delegator(role).get_delegated_role(role).threshold
    ]
    if signable:
        repository.commit(*signable)
    return signable, [role for role in expiring if role not in signable]


def change_lifetime(repository: Repository, role: str, days: int) -> None:
    """Change the lifetime of a role's signatures, and re-sign the role.

    Raises:
        JepaExportError: The role or lifetime is invalid, or too few keys are available.
        StorageError: A file cannot be written.
    """
    delegator = repository.delegator(role)
    if delegator is not repository.root and delegator is not repository.targets:
        raise JepaExportError(
            f"{role} has the lifetime of its channel: change that of the channel",
            code="release.role_is_listing",
        )
    check_lifetime(role, days)
    set_lifetime(delegator.get_delegated_role(role), days)
    top = "root" if delegator is repository.root else "targets"
    repository.commit(top, *_with_listings(repository, role))


def _with_listings(repository: Repository, role: str) -> list[str]:
    """Return a role and, if it is a channel, its listings, which have the same keys."""
    name = next((name for name in repository.channels if role == channel_role(name)), None)
    return [role] if name is None else [role, *repository.listings(name)]


def _finish_rotation(repository: Repository, role: str, old: str) -> tuple[str, str]:
    repository.commit(role)
    known = repository.root.roles[role]
    repository.root.revoke_key(old, role)
    del known.unrecognized_fields[_RETIRING]
    repository.commit("root")
    return old, known.keyids[-1]


def _chosen(role: str, keyids: Sequence[str], retire: str | None) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(retire or "")]
    if len(found) != 1:
        named = ", ".join(map(short_id, keyids))
        raise JepaExportError(
            f"{role} has the keys {named}: choose the one to retire (--key)", code="release.key_ambiguous"
        )
    return found[0]


def _check_channel(name: str, channels: list[str]) -> None:
    if not _CHANNEL.fullmatch(name):
        raise JepaExportError(
            f"invalid channel name {name!r}: use up to 64 characters of a-z, 0-9, - and _, beginning with a "
            "letter or digit",
            code="release.invalid_channel",
        )
    if channels.count(name) > 1:
        raise JepaExportError(f"channel {name!r} exists already", code="release.channel_exists")


def _delegate(repository: Repository, name: str, policy: Policy, externals: Externals) -> None:
    role, quorum = channel_role(name), policy.of(channel_role(name))
    paths = [f"models/{name}" + "/*" * (count - 2) for count in _SEGMENTS]
    delegations = repository.targets.delegations
    if delegations is None or delegations.roles is None:
        raise JepaExportError(
            f"{repository.folder}: its targets role has no delegations: it was not created by jepa-export",
            code="release.no_delegations",
        )
    delegations.roles[role] = DelegatedRole(role, [], quorum.threshold, terminating=True, paths=paths)
    for key in _new_keys(repository.keys, role, quorum, externals):
        repository.targets.add_key(key, role)
    repository.signed[role] = Targets()


def _new_keys(keys: KeyRing, role: str, quorum: Quorum, externals: Externals) -> list[Key]:
    given = externals.get(role, ())
    if len(given) > quorum.keys:
        raise JepaExportError(
            f"--signer {role}: {len(given)} keys, but the role has {quorum.keys}",
            code="release.too_many_keys",
        )
    adopted = [keys.adopt(role, external) for external in given]
    return adopted + [keys.create(role) for _ in range(quorum.keys - len(adopted))]
