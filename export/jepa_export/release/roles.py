"""Who signs what: a new repository, new channels, new keys, and what expires signed anew.

The keys of root and targets are best kept on disks that are plugged in when they are needed; the channel's,
the snapshot's and the timestamp's are needed for each release.
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
from jepa_export.release.keys import External, KeyRing, short_id
from jepa_export.release.repository import (
    METADATA,
    TARGETS,
    Repository,
    channel_role,
    check_lifetime,
    set_lifetime,
    utc_now,
)
from jepa_runtime.ota.trust.metadata import SIGNED_AT
from jepa_runtime.util import atomic_files

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# models/CHANNEL/MODEL_ID/latest.json has four segments; a star stands for one.
_SEGMENTS = range(4, 9)
_RETIRING = "x-jepa-retiring"
# Of a role: each is a file of its own, and listed in what every robot reads.
_MOST_KEYS = 100

Externals = Mapping[str, Sequence[External]]


@dataclass(frozen=True)
class Quorum:
    """How many of how many keys sign.

    Raises:
        JepaExportError: this cannot be.
    """

    threshold: int
    keys: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys <= _MOST_KEYS:
            raise JepaExportError(
                f"{self.threshold} of {self.keys} keys cannot sign: at least 1, at most all of {_MOST_KEYS}"
            )


_ONE = Quorum(1, 1)


@dataclass(frozen=True)
class Policy:
    """The quorum of each role; ``canary``: that of the channel of this name."""

    root: Quorum = _ONE
    targets: Quorum = _ONE
    channel: Quorum = _ONE
    canary: Quorum = _ONE

    def of(self, role: str) -> Quorum:
        """The quorum of a role."""
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
    """Make a repository without releases, and the keys that sign it.

    Args:
        externals: keys that lie elsewhere, for each role; the others of its quorum are made.
        lifetimes: how many days signatures of a role are valid, where the default is not wanted.

    Raises:
        JepaExportError: there is something already, the keys would lie where they are served, or a name or a
            key is wrong.
        StorageError: it cannot be written.
    """
    metadata = folder / METADATA
    if metadata.exists() and any(metadata.iterdir()):
        raise JepaExportError(
            f"{metadata}: there is a repository, or what an interrupted init has left: choose another "
            "folder, or remove this one"
        )
    for private in keys.folders:
        if private.resolve().is_relative_to(folder.resolve()):
            raise JepaExportError(f"{private}: lies in {folder}, which is served: keep keys outside (--keys)")
    roles = ["root", "targets", "snapshot", "timestamp", *map(channel_role, channels)]
    if unknown := sorted(set(externals) - set(roles)):
        raise JepaExportError(f"--signer {unknown[0]}: no such role, there are {', '.join(roles)}")
    if unknown := sorted(set(lifetimes) - set(roles)):
        raise JepaExportError(f"--lifetime {unknown[0]}: no such role, there are {', '.join(roles)}")
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


def add_channel(repository: Repository, name: str, policy: Policy, externals: Sequence[External]) -> None:
    """Add a channel without releases.

    Raises:
        JepaExportError: its name is wrong or taken, or too few keys are at hand.
        StorageError: it cannot be written.
    """
    _check_channel(name, [*repository.channels, name])
    repository.require("targets")
    _delegate(repository, name, policy, {channel_role(name): externals})
    repository.commit("targets", channel_role(name))


def rotate(
    repository: Repository, role: str, *, retire: str | None = None, external: External | None = None
) -> tuple[str, str]:
    """Let a new key sign a role, and an old one no more. What a stopped rotation of the role has begun is
    finished instead.

    Args:
        retire: the first characters of the old key's identifier; None: the role has but one.
        external: the new key, if it lies elsewhere; None: it is made.

    Returns:
        The identifiers of the old and of the new key.

    Raises:
        JepaExportError: no such role or key, or too few keys are at hand.
        StorageError: it cannot be written.
    """
    delegator = repository.delegator(role)
    channel = next((name for name in repository.channels if role in repository.listings(name)), None)
    if channel is not None:
        raise JepaExportError(
            f"{role} is signed with the keys of its channel: rotate {channel_role(channel)}"
        )
    if role == "timestamp":
        # What the old key said of the time ends with it, for robots too.
        repository.signed[role].unrecognized_fields.pop(SIGNED_AT, None)
    known = delegator.get_delegated_role(role)
    if begun := known.unrecognized_fields.get(_RETIRING):
        return _finish_rotation(repository, role, str(begun))
    old = _chosen(role, known.keyids, retire)
    at_hand = len(set(repository.at_hand(role)) - {old}) + 1
    if at_hand < known.threshold:
        raise JepaExportError(
            f"{role} needs {known.threshold} signatures, with a new key instead of {short_id(old)} there are "
            f"{at_hand}: name the folders that have the other keys too (--keys)"
        )
    if role != "root":
        repository.require("root" if delegator is repository.root else "targets")
    key = repository.keys.create(role) if external is None else repository.keys.adopt(role, external)
    delegator.add_key(key, role)
    if role == "root" or delegator is not repository.root:
        delegator.revoke_key(old, role)
        repository.commit(*(("root",) if role == "root" else ("targets", *_with_listings(repository, role))))
        return old, key.keyid
    # Root and what this role signs are two files, which cannot change at the same moment: in between, both
    # keys count.
    known.unrecognized_fields[_RETIRING] = old
    repository.commit("root")
    return _finish_rotation(repository, role, old)


def resign(repository: Repository, within: timedelta | None = None) -> tuple[list[str], list[str]]:
    """Sign anew what expires soon.

    Args:
        within: how soon; None: in less than a quarter of its lifetime.

    Returns:
        The roles that were signed, and those that are due but have too few keys at hand.

    Raises:
        JepaExportError: snapshot or timestamp have too few keys at hand.
        StorageError: it cannot be written.
    """
    now = repository.now()
    due = [
        role
        for role, signed in sorted(repository.signed.items())
        if signed.expires - now <= (repository.lifetime(role) / 4 if within is None else within)
    ]
    able = [
        role
        for role in due
        if len(repository.at_hand(role)) >= repository.delegator(role).get_delegated_role(role).threshold
    ]
    if able:
        repository.commit(*able)
    return able, [role for role in due if role not in able]


def change_lifetime(repository: Repository, role: str, days: int) -> None:
    """Let signatures of a role be valid for another number of days, and re-sign the role.

    Raises:
        JepaExportError: no such role or number, or too few keys are at hand.
        StorageError: it cannot be written.
    """
    delegator = repository.delegator(role)
    if delegator is not repository.root and delegator is not repository.targets:
        raise JepaExportError(f"{role} has the lifetime of its channel: change that")
    check_lifetime(role, days)
    set_lifetime(delegator.get_delegated_role(role), days)
    top = "root" if delegator is repository.root else "targets"
    repository.commit(top, *_with_listings(repository, role))


def _with_listings(repository: Repository, role: str) -> list[str]:
    """Return a role and, if it is a channel, the listings that its keys sign too."""
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
        raise JepaExportError(f"{role} has the keys {named}: name the one to retire (--key)")
    return found[0]


def _check_channel(name: str, channels: list[str]) -> None:
    if not _CHANNEL.fullmatch(name):
        raise JepaExportError(
            f"channel {name!r}: a name has up to 64 of a-z, 0-9, - and _, the first no - or _"
        )
    if channels.count(name) > 1:
        raise JepaExportError(f"channel {name!r} is there already")


def _delegate(repository: Repository, name: str, policy: Policy, externals: Externals) -> None:
    role, quorum = channel_role(name), policy.of(channel_role(name))
    paths = [f"models/{name}" + "/*" * (count - 2) for count in _SEGMENTS]
    delegations = repository.targets.delegations
    if delegations is None or delegations.roles is None:
        raise JepaExportError(
            f"{repository.folder}: its targets role delegates nothing: init made no such one"
        )
    delegations.roles[role] = DelegatedRole(role, [], quorum.threshold, terminating=True, paths=paths)
    for key in _new_keys(repository.keys, role, quorum, externals):
        repository.targets.add_key(key, role)
    repository.signed[role] = Targets()


def _new_keys(keys: KeyRing, role: str, quorum: Quorum, externals: Externals) -> list[Key]:
    given = externals.get(role, ())
    if len(given) > quorum.keys:
        raise JepaExportError(f"--signer {role}: {len(given)} keys, {quorum.keys} are to sign it")
    adopted = [keys.adopt(role, external) for external in given]
    return adopted + [keys.create(role) for _ in range(quorum.keys - len(adopted))]
