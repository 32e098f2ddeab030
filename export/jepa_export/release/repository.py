"""A repository of releases on disk: ``metadata/`` and ``targets/``, for any web server.

A channel is a role that lists what every robot reads at every change: one pointer per model. The files of a
version are in a listing, a role to which the channel delegates and that a robot reads only to install that
version. A snapshot can never drop a role, so a model has a fixed number of listings, and a new version
replaces the oldest one.

Only ``timestamp.json`` is ever overwritten. All other files have their version or hash in their names, and a
version number that exists on disk, even if only because a publisher was interrupted, is never used again:
cached files stay valid. Files are written in an order in which everything listed exists (targets, channels,
snapshot, timestamp), each atomically, so that a robot that reads meanwhile sees the complete old state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

from tuf.api.exceptions import (
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from jepa_export.errors import JepaExportError
from jepa_export.release.keys import KeyRing, reason_of, short_id
from jepa_runtime.ota.trust import SIGNED_AT, max_metadata_bytes, signed_at
from jepa_runtime.util import atomic_files

METADATA, TARGETS = "metadata", "targets"
_PREFIX = "channel-"
_DAYS = {"root": 365, "targets": 180, "snapshot": 14, "timestamp": 7, "channel-canary": 30}
_CHANNEL_DAYS = 90
_MAX_DAYS = 3650
# Field of a delegation: the lifetime of the role's signatures in days, if not the default.
_LIFETIME = "x-jepa-lifetime-days"
# Field of a listing's delegation: the version whose files it lists.
_VERSION = "x-jepa-version"
# A time before every expiry date.
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def channel_role(channel: str) -> str:
    """Return the role that signs the releases of a channel."""
    return _PREFIX + channel


def listing_role(channel: str, model_id: str, number: int) -> str:
    """Return the name of a role that lists the files of one version of a model."""
    return f"listing.{channel}.{model_id}.{number}"


def default_days(role: str) -> int:
    """Return how many days a signature of a top-level role or channel is valid by default."""
    return _DAYS.get(role, _CHANNEL_DAYS)


def listed_version(entry: DelegatedRole) -> str:
    """Return the version whose files a listing holds."""
    return str(entry.unrecognized_fields.get(_VERSION, ""))


def check_lifetime(role: str, days: int) -> None:
    """Check the lifetime of a role.

    Raises:
        JepaExportError: It is out of range.
    """
    if not 1 <= days <= _MAX_DAYS:
        raise JepaExportError(
            f"{role}: a lifetime of {days} days is out of range: choose 1 to {_MAX_DAYS}",
            code="release.invalid_lifetime",
        )


def set_lifetime(entry: Role, days: int) -> None:
    """Set the lifetime of the next signatures of a role."""
    entry.unrecognized_fields[_LIFETIME] = days


def utc_now() -> datetime:
    """Return the current time, the default clock for signatures."""
    return datetime.now(timezone.utc)


def read(folder: Path, at: datetime) -> dict[str, Signed]:
    """Read all metadata of a repository, verified from the first root on, as robots do.

    Args:
        folder: Folder of the repository.
        at: Time at which nothing may have expired.

    Raises:
        JepaExportError: A file is missing, damaged, expired, or not correctly signed.
    """
    metadata = folder / METADATA
    try:
        trusted = TrustedMetadataSet((metadata / "1.root.json").read_bytes(), EnvelopeType.METADATA)
        trusted.reference_time = at
        while (following := metadata / f"{trusted.root.version + 1}.root.json").exists():
            trusted.update_root(following.read_bytes())
        trusted.update_timestamp((metadata / "timestamp.json").read_bytes())
        version = trusted.timestamp.snapshot_meta.version
        trusted.update_snapshot((metadata / f"{version}.snapshot.json").read_bytes())

        def content(role: str) -> bytes:
            listed = trusted.snapshot.meta.get(f"{role}.json")
            if listed is None:
                raise RepositoryError(f"snapshot does not list {role}")
            return (metadata / f"{listed.version}.{role}.json").read_bytes()

        roles = sorted(_delegated(trusted.update_targets(content("targets"))))
        for channel in list(roles):
            for role in _delegated(trusted.update_delegated_targets(content(channel), channel, "targets")):
                trusted.update_delegated_targets(content(role), role, channel)
                roles.append(role)
    except OSError as error:
        raise JepaExportError(
            f"{error.filename}: cannot be read ({error.strerror}): pass the folder of a repository, or "
            "create one with jepa-export release init",
            code="release.repository_unreadable",
        ) from error
    except ExpiredMetadataError as error:
        raise JepaExportError(
            f"{folder}: {error}: sign it again with jepa-export release resign", code="release.expired"
        ) from error
    except RepositoryError as error:
        raise JepaExportError(
            f"{folder}: the metadata does not match its signatures: {error}: restore {METADATA}/ from a "
            "backup",
            code="release.metadata_damaged",
        ) from error
    return {role: trusted[role] for role in ("root", "timestamp", "snapshot", "targets", *roles)}


class Repository:
    """Signed metadata that is changed in memory and then committed.

    Args:
        folder: Folder of the repository.
        keys: Available signing keys.
        now: Clock.
        signed: Metadata of each role.
        before: Root that robots know; None: none was published.
    """

    def __init__(
        self,
        folder: Path,
        keys: KeyRing,
        now: Callable[[], datetime],
        signed: dict[str, Signed],
        before: Root | None,
    ) -> None:
        self.folder, self.keys, self.now, self.signed = folder, keys, now, signed
        self._before = deepcopy(before)

    @classmethod
    @contextmanager
    def opened(
        cls, folder: Path, keys: KeyRing, now: Callable[[], datetime] = utc_now
    ) -> Iterator[Repository]:
        """Open a repository, and lock it against other publishers until the end of the block.

        Expired metadata is accepted, so that it can be signed again.

        Raises:
            JepaExportError: The repository cannot be read, or does not match its signatures.
            StorageError: Another publisher holds the lock.
        """
        if not (folder / METADATA).is_dir():
            raise JepaExportError(
                f"{folder}: is not a repository: create one with jepa-export release init",
                code="release.repository_missing",
            )
        with atomic_files.locked(folder / ".lock", purpose="jepa-export release"):
            signed = read(folder, LONG_AGO)
            yield cls(folder, keys, now, signed, cast(Root, signed["root"]))

    @property
    def root(self) -> Root:
        """The root metadata: the keys of the top-level roles."""
        return cast(Root, self.signed["root"])

    @property
    def targets(self) -> Targets:
        """The targets metadata: the keys of the channels."""
        return cast(Targets, self.signed["targets"])

    @property
    def channels(self) -> list[str]:
        """The names of the channels."""
        return sorted(role.removeprefix(_PREFIX) for role in _delegated(self.targets))

    @property
    def expired(self) -> list[str]:
        """The expired top-level roles, without which robots accept no update."""
        return [role for role in sorted(self.root.roles) if self.signed[role].expires <= self.now()]

    def channel(self, name: str) -> Targets:
        """Return the metadata of a channel.

        Raises:
            JepaExportError: There is no such channel.
        """
        if name not in self.channels:
            raise JepaExportError(
                f"{self.folder}: unknown channel {name!r}: it has {', '.join(self.channels)}",
                code="release.unknown_channel",
            )
        return cast(Targets, self.signed[channel_role(name)])

    def listings(self, channel: str) -> dict[str, DelegatedRole]:
        """Return the listings of a channel by role name.

        Raises:
            JepaExportError: There is no such channel.
        """
        return _delegated(self.channel(channel))

    def listed(self, channel: str) -> dict[str, TargetFile]:
        """Return all targets that robots find in a channel, by path.

        Raises:
            JepaExportError: There is no such channel.
        """
        found = dict(self.channel(channel).targets)
        for name, role in self.listings(channel).items():
            targets = cast(Targets, self.signed[name]).targets
            found |= {path: target for path, target in targets.items() if role.is_delegated_path(path)}
        return found

    def listing(self, role: str) -> dict[str, TargetFile]:
        """Return the targets of a listing by path."""
        return cast(Targets, self.signed[role]).targets

    def set_listing(
        self, channel: str, role: str, version: str, targets: Mapping[str, TargetFile], paths: Sequence[str]
    ) -> None:
        """Replace the content of a listing by a version; robots see it after :meth:`commit`.

        Args:
            channel: Name of the channel.
            role: Name of the listing.
            version: Whose files the listing will hold.
            targets: The files by path.
            paths: Patterns of the paths that robots look up in this listing.
        """
        listed = self.channel(channel)
        if listed.delegations is None or listed.delegations.roles is None:
            listed.delegations = Delegations({}, {})
        entry = DelegatedRole(role, [], 1, terminating=True, paths=list(paths))
        entry.unrecognized_fields[_VERSION] = version
        cast("dict[str, DelegatedRole]", listed.delegations.roles)[role] = entry
        cast(Targets, self.signed.setdefault(role, Targets())).targets = dict(targets)

    def _share_keys(self, channel: str) -> None:
        """Delegate the listings of a channel to the keys of the channel."""
        known = self.targets.get_delegated_role(channel_role(channel))
        delegations = self.channel(channel).delegations
        if delegations is None:
            return
        delegations.keys = {keyid: self.targets.get_key(keyid) for keyid in known.keyids}
        for entry in _delegated(self.channel(channel)).values():
            entry.keyids, entry.threshold = list(known.keyids), known.threshold

    def lifetime(self, role: str) -> timedelta:
        """Return the lifetime of a role's signatures; a listing has that of its channel."""
        if role not in self.root.roles and role not in _delegated(self.targets):
            role = next(channel_role(name) for name in self.channels if role in self.listings(name))
        policy = self.delegator(role).get_delegated_role(role).unrecognized_fields.get(_LIFETIME)
        return timedelta(days=int(policy or default_days(role)))

    def delegator(self, role: str) -> Root | Targets:
        """Return the metadata that defines which keys sign a role.

        Raises:
            JepaExportError: There is no such role.
        """
        if role in self.root.roles:
            return self.root
        if role in _delegated(self.targets):
            return self.targets
        for name in self.channels:
            if role in self.listings(name):
                return self.channel(name)
        known = sorted({*self.root.roles, *_delegated(self.targets)})
        raise JepaExportError(
            f"{self.folder}: unknown role {role!r}: it has {', '.join(known)}", code="release.unknown_role"
        )

    def available_keys(self, role: str) -> list[str]:
        """Return the IDs of the keys of a role that can sign here.

        Raises:
            JepaExportError: There is no such role, or a key exists but cannot be used.
        """
        delegator = self.delegator(role)
        known = delegator.get_delegated_role(role).keyids
        return [keyid for keyid in known if self.keys.signer(delegator.get_key(keyid)) is not None]

    def require(self, role: str) -> None:
        """Check that a role can be signed here.

        Raises:
            JepaExportError: Too few of its keys are available.
        """
        known, available = self.delegator(role).get_delegated_role(role), self.available_keys(role)
        if len(available) < known.threshold:
            missing = set(known.keyids) - set(available)
            raise self._too_few(role, known.threshold, len(available), missing)

    def _too_few(self, role: str, threshold: int, available: int, missing: Iterable[str]) -> JepaExportError:
        folders = ", ".join(map(str, self.keys.folders))
        return JepaExportError(
            f"{role} needs {threshold} signatures, and {available} of its keys are in {folders}: also pass "
            f"the folder that has another of {', '.join(map(short_id, missing))} (--keys)",
            code="release.too_few_keys",
        )

    def add(self, channel: str, path: str, content: bytes) -> None:
        """Write a target and list it in the channel itself; robots see it after :meth:`commit`.

        Raises:
            JepaExportError: The channel may not list this path.
            StorageError: The file cannot be written.
        """
        self.channel(channel).targets[path] = self.write(channel, path, content)

    def write(self, channel: str, path: str, content: bytes) -> TargetFile:
        """Write a target without listing it.

        Raises:
            JepaExportError: The channel may not list this path.
            StorageError: The file cannot be written.
        """
        self.channel(channel)
        if not _delegated(self.targets)[channel_role(channel)].is_delegated_path(path):
            raise JepaExportError(
                f"{path}: has more path components than a channel may list: use fewer nested folders in the "
                "bundle",
                code="release.path_too_deep",
            )
        target = TargetFile.from_data(path, content, ["sha256"])
        stored = self.stored(target)
        atomic_files.make_folder(stored.parent)
        atomic_files.write(stored, content)
        return target

    def content(self, target: TargetFile) -> bytes:
        """Return the verified content of a target.

        Raises:
            JepaExportError: The file is missing or damaged.
        """
        stored = self.stored(target)
        try:
            content = stored.read_bytes()
            target.verify_length_and_hashes(content)
        except OSError as error:
            raise JepaExportError(
                f"{stored}: cannot be read: {error.strerror}: restore it from a backup",
                code="release.target_unreadable",
            ) from error
        except LengthOrHashMismatchError as error:
            raise JepaExportError(
                f"{stored}: does not match its signed hash: restore it from a backup",
                code="release.target_damaged",
            ) from error
        return content

    def stored(self, target: TargetFile) -> Path:
        """Return the path of the file of a target."""
        return self.folder / TARGETS / target.get_prefixed_paths()[0]

    def commit(self, *changed: str) -> None:
        """Sign roles and those that list them, and write all files, each after the files that it lists.

        Args:
            *changed: Names of the roles that were changed.

        Raises:
            JepaExportError: Too few keys are available, the clock is behind, or a file is larger than robots
                read; nothing was written.
            StorageError: A file cannot be written; robots still see the old state.
        """
        roles, files = set(changed), []
        snapshot = cast(Snapshot, self.signed["snapshot"])
        timestamp = cast(Timestamp, self.signed["timestamp"])
        for name in self.channels:
            if channel_role(name) in roles:
                self._share_keys(name)
        if "root" in roles:
            files.append(self._sign("root"))
        for role in sorted(roles - {"root", "snapshot", "timestamp"}):
            files.append(self._sign(role))
            snapshot.meta[f"{role}.json"] = _listed(self.signed[role], files[-1][1])
            roles.add("snapshot")
        if "snapshot" in roles:
            files.append(self._sign("snapshot"))
            timestamp.snapshot_meta = _listed(snapshot, files[-1][1])
            roles.add("timestamp")
        if "timestamp" in roles:
            files.append(self._sign("timestamp"))
        for name, content in files:
            if len(content) > max_metadata_bytes(name):
                raise JepaExportError(
                    f"{name} would have {len(content)} bytes, and robots read at most "
                    f"{max_metadata_bytes(name)}: release into another channel (jepa-export release "
                    "add-channel), or create another repository",
                    code="release.metadata_too_large",
                )
        for name, content in files:
            atomic_files.write(self.folder / METADATA / name, content)
        if "root" in roles:
            self._before = deepcopy(self.root)

    def _sign(self, role: str) -> tuple[str, bytes]:
        signed, now = self.signed[role], self.now()
        last = signed_at(self.signed["timestamp"])
        if last is not None and now < last:
            raise JepaExportError(
                f"{self.folder}: was last signed at {last:%F %T} UTC, but the clock shows {now:%F %T}: "
                "correct the clock; if it is correct, the last signature was made with a clock that was "
                "ahead: wait until then, or reset the time that robots know with a new key: jepa-export "
                f"release rotate {self.folder} timestamp",
                code="release.clock_behind",
            )
        signed.version = self._next_version(role)
        signed.expires = now + self.lifetime(role)
        signed.unrecognized_fields[SIGNED_AT] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata, delegators = Metadata[Any](signed), [self.delegator(role)]
        if role == "root" and self._before is not None:
            delegators.append(self._before)
        for delegator in delegators:
            for keyid in delegator.get_delegated_role(role).keyids:
                signer = self.keys.signer(delegator.get_key(keyid))
                if signer is None or keyid in metadata.signatures:
                    continue
                try:
                    metadata.sign(signer, append=True)
                except UnsignedMetadataError as error:
                    why = reason_of(error.__cause__ or error)
                    raise JepaExportError(
                        f"{role}: key {short_id(keyid)} does not sign: {why}: check its PIN, and that its "
                        "device or service is reachable",
                        code="release.signing_failed",
                    ) from error
        for delegator in delegators:
            result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result:
                raise self._too_few(role, result.threshold, len(result.signed), result.unsigned)
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        return name, metadata.to_bytes()

    def _next_version(self, role: str) -> int:
        metadata = self.folder / METADATA
        if role == "timestamp":
            return self.signed[role].version + 1 if (metadata / "timestamp.json").exists() else 1
        used = (path.name.partition(".")[0] for path in metadata.glob(f"*.{role}.json"))
        return 1 + max((int(version) for version in used if version.isdecimal()), default=0)


def _delegated(targets: Targets) -> dict[str, DelegatedRole]:
    return (targets.delegations and targets.delegations.roles) or {}


def _listed(signed: Signed, content: bytes) -> MetaFile:
    return MetaFile.from_data(signed.version, content, ["sha256"])
