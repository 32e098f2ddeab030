"""Refreshes the signed metadata of a repository with python-tuf, with a robot's own floors, time and limits.

1. Every refresh begins with the root that was provisioned, whatever metadata is stored.
2. Floors are stored separately and replace stored metadata that was lost: no role may fall below them. They
   end as in the specification (5.3.11): once the root no longer accepts a set of keys that could sign the
   timestamp or the snapshot, floors that these keys may have raised end, under whichever root they were
   raised. A stolen key cannot stop a robot permanently with a high version number, of a role or of a release.
3. Expiry is checked at the latest of four times: the clock, the latest signature seen, the signature of the
   current root, and the date of this software. A clock that was set back, or that starts in 1970 before any
   signature was seen, does not revive expired metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from jepa_runtime.errors import TrustError
from jepa_runtime.ota.transport.fetch import fetch_bytes
from jepa_runtime.ota.transport.repository_sources import Limits, NotFoundError, Source

SIGNED_AT = "x-jepa-signed-at"
"""The field of signed metadata that holds the time of the signature."""
# Limits on any announced size, so that a stolen key cannot exhaust memory. The versions of all roles of a
# snapshot are stored in the state, which has to stay well below its own limit.
_MAX_METADATA_BYTES, _MAX_SNAPSHOT_BYTES = 5 << 20, 1 << 20
# Sources of the time at which expiry is checked, and what to do if the clock is right and the source is not.
_CLOCK, _SEEN, _ROOT, _SOFTWARE = (
    "by the clock of this robot",
    "the latest signature seen",
    "the signature of the root",
    "the date of this software",
)
_IF_CLOCK_IS_RIGHT = {
    _SEEN: "the signer's clock was ahead: rotate the key of the timestamp (jepa-export release rotate)",
    _ROOT: "the root was signed with a clock that was ahead: sign it again (jepa-export release rotate)",
    _SOFTWARE: "install the latest version of jepa-edge again",
}
# Since the provisioned root; enough for decades.
_MAX_ROOT_ROTATIONS = 1 << 14


@dataclass(frozen=True)
class Floors:
    """Lower bounds that a robot remembers from its last refresh, stored separately from the metadata.

    A refresh never lowers them, except for floors that have ended.

    Attributes:
        versions: Lowest acceptable version of each role, including roles that no longer exist.
        signed_at: Time of the latest timestamp signature seen; None: none was seen.
        release_seqs: Lowest acceptable release number of each ``channel/model``, checked by the reader of the
            channel.
    """

    versions: Mapping[str, int]
    signed_at: datetime | None
    release_seqs: Mapping[str, int] = field(default_factory=dict)


class MetadataUpdater(Updater):
    """One refresh of python-tuf, with this robot's time and floors."""

    def __init__(
        self,
        meta: Path,
        fetcher: FetcherInterface,
        *,
        root: bytes,
        now: datetime,
        not_before: datetime | None = None,
        floors: Floors,
    ) -> None:
        super().__init__(
            str(meta),
            "/",
            fetcher=fetcher,
            config=UpdaterConfig(max_root_rotations=_MAX_ROOT_ROTATIONS),
            bootstrap=root,
        )
        self._history = meta / "root_history"
        self._now, self._not_before = now, not_before
        self._time = _CLOCK
        self._floors = floors

    def refresh(self) -> None:
        with self._expiry_explained():
            super().refresh()

    def get_targetinfo(self, target_path: str) -> TargetFile | None:
        with self._expiry_explained():
            return super().get_targetinfo(target_path)

    def _load_timestamp(self) -> None:
        # The current root is known only here; python-tuf itself reads the clock on creation.
        self._floors = self._valid_floors()
        times = {
            _CLOCK: self._now,
            _SEEN: self._floors.signed_at,
            _ROOT: signed_at(self._trusted_set.root),
            _SOFTWARE: self._not_before,
        }
        known = {name: time for name, time in times.items() if time is not None}
        # Of equal times, the first counts.
        self._time = max(known, key=known.__getitem__)
        self._trusted_set.reference_time = known[self._time]
        super()._load_timestamp()

    def seen(self) -> Floors:
        """Return the next floors.

        Raises:
            TrustError: A role is older than its floor.
        """
        trusted = self._trusted_set
        versions = {name.removesuffix(".json"): file.version for name, file in trusted.snapshot.meta.items()}
        for role in (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets):
            versions[role.type] = role.version
        for name, floor in self._floors.versions.items():
            if versions.setdefault(name, floor) < floor:
                raise TrustError(
                    f"{name}: version {versions[name]} is offered, but version {floor} was seen before: the "
                    "repository is outdated, or was restored from a backup: rotate the keys of snapshot and "
                    "timestamp (jepa-export release rotate)",
                    code="trust.rollback",
                )
        times = [time for time in (self._floors.signed_at, signed_at(trusted.timestamp)) if time is not None]
        return Floors(versions, max(times, default=None), self._floors.release_seqs)

    def stored_path(self, info: TargetFile) -> str:
        """Return the path of a file in the repository."""
        if not self._trusted_set.root.consistent_snapshot:
            return info.path
        folder, slash, name = info.path.rpartition("/")
        return f"{folder}{slash}{next(iter(info.hashes.values()))}.{name}"

    def _valid_floors(self) -> Floors:
        """Return the floors without those whose signing keys have been replaced since.

        A floor may have been raised under any earlier root: during a rotation, also under one that accepts
        both the old and the new key.
        """
        root = self._trusted_set.root
        last = self._floors.versions.get(Root.type, root.version)
        known = self._stored_roots(last) if last < root.version else {}
        if last not in known:
            # No newer root; or the last root is lost, and its signing keys are unknown.
            return self._floors
        ended = {
            role
            for role in (Timestamp.type, Snapshot.type)
            if any(
                _revokes_signers(before, root, role) and not _revokes_signers(before, known[last], role)
                for before in known.values()
            )
        }
        # The snapshot defines the versions of all other roles, and with them what channels offer.
        held_by = {Root.type: Root.type, Timestamp.type: Timestamp.type}
        return Floors(
            {
                name: floor
                for name, floor in self._floors.versions.items()
                if held_by.get(name, Snapshot.type) not in ended
            },
            None if Timestamp.type in ended else self._floors.signed_at,
            {} if Snapshot.type in ended else self._floors.release_seqs,
        )

    def _stored_roots(self, last: int) -> dict[int, Root]:
        """Return the stored roots up to version ``last``, by version."""
        known = {}
        for path in self._history.glob("*.root.json"):
            with suppress(OSError, exceptions.RepositoryError):
                signed = Metadata.from_bytes(path.read_bytes()).signed
                if isinstance(signed, Root) and signed.version <= last:
                    known[signed.version] = signed
        return known

    @contextmanager
    def _expiry_explained(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ExpiredMetadataError as error:
            time = self._trusted_set.reference_time
            if self._time == _CLOCK:
                hint = (
                    "the repository was not signed in time, or newer metadata is withheld: ask its operator; "
                    "if this clock is ahead, set it"
                )
            else:
                hint = (
                    f"the clock of this robot is at {self._now:%F %R}: set it, or, if it is right, "
                    f"{_IF_CLOCK_IS_RIGHT[self._time]}"
                )
            separator = ": " if self._time == _CLOCK else "; "
            raise TrustError(
                f"{error} at {time:%F %R} UTC, {self._time}{separator}{hint}", code="trust.expired"
            ) from error


class MetadataFetcher(FetcherInterface):
    """Fetches metadata from a source; python-tuf's own fetcher limits only the length.

    Attributes:
        last: The file that was requested last.
        fetched: Whether a file was received, and may have been stored, since this was set to False.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self.last = "the provisioned root"
        self.fetched = False

    def download_bytes(self, url: str, max_length: int) -> bytes:
        self.last = url.removeprefix("/")
        max_bytes = min(max_length, max_metadata_bytes(self.last))
        try:
            content = fetch_bytes(self._source, self.last, max_bytes=max_bytes, limits=self._limits)
        except NotFoundError as error:
            # There is none after the newest root; python-tuf expects this error.
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        self.fetched = True
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("only download_bytes is used")


def max_metadata_bytes(name: str) -> int:
    """Return the longest allowed length of a metadata file."""
    return _MAX_SNAPSHOT_BYTES if name.endswith("snapshot.json") else _MAX_METADATA_BYTES


def _revokes_signers(before: Root, now: Root, role: str) -> bool:
    """Return whether keys that could sign a role together under one root cannot under a later one."""
    then, since = before.roles[role], now.roles[role]
    removed = len({*then.keyids} - {*since.keyids})
    return max(0, then.threshold - removed) < since.threshold


def signed_at(signed: Signed) -> datetime | None:
    """Return when a role was signed, or None if it does not say.

    Raises:
        TrustError: The time is invalid.
    """
    text = signed.unrecognized_fields.get(SIGNED_AT)
    if text is None:
        return None
    try:
        # Python 3.10 does not parse the Z at the end.
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        if time.tzinfo is not None and time < signed.expires:
            return time
    except ValueError:
        pass
    raise TrustError(
        f"{signed.type}: {SIGNED_AT} is {str(text)[:80]!r}, which is not a UTC time before its expiry: "
        "sign it again",
        code="trust.invalid_signing_time",
    )
