"""The signed metadata of a repository: refreshes of python-tuf, with a robot's own floors, time and limits.

1. The root that came with the robot is where every refresh begins, whatever the stored metadata is.
2. Floors, stored elsewhere, stand in for stored metadata that got lost: no role may fall below them. They end
   as in the specification (5.3.11): once the root no longer accepts a set of keys that could sign the
   timestamp or the snapshot, floors that these keys may have raised end, under whichever root they were
   raised. A thief cannot stop a robot for ever with a high number, be it that of a role or of a release.
3. The time that decides on expiry is the latest of four: the clock, the latest signature seen, the signature
   of the root that counts, and the date of this software. A clock that was set back, or that starts in 1970
   before any signature was seen, revives nothing.
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
# Whatever is announced: a stolen key must not fill the memory. The versions of all roles that a snapshot
# names are kept in the state, which has to stay well below its own limit.
_MAX_METADATA_BYTES, _MAX_SNAPSHOT_BYTES = 5 << 20, 1 << 20
# Where the time comes from that decides on expiry, and what is wrong if the clock is right instead.
_CLOCK, _SEEN, _ROOT, _SOFTWARE = (
    "by the clock of this robot",
    "the latest signature seen",
    "the signature of the root",
    "the date of this software",
)
_AHEAD = {
    _SEEN: "whoever signs had a clock that was ahead: ask them to rotate the key of the timestamp "
    "(jepa-export release rotate)",
    _ROOT: "the root was signed with a clock that was ahead: ask who runs the repository to sign it again "
    "(jepa-export release rotate)",
    _SOFTWARE: "install the version of jepa-edge again that was released last",
}
# Since the one that came with the robot; enough for decades.
_MOST_ROOTS = 1 << 14


@dataclass(frozen=True)
class Floors:
    """What a robot remembers of its last refresh, in another place than the metadata. Those that a refresh
    finds are not lower than those before, except where floors have ended.

    Attributes:
        versions: the lowest that is acceptable, of each role; also of those that have gone.
        signed_at: the latest time at which a timestamp was signed, as far as seen; None: none was seen.
        release_seqs: the lowest that is acceptable of each ``channel/model``; for whoever reads what a
            channel offers.
    """

    versions: Mapping[str, int]
    signed_at: datetime | None
    release_seqs: Mapping[str, int] = field(default_factory=dict)


class MetadataUpdater(Updater):
    """One refresh of python-tuf, with our time and our floors."""

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
            config=UpdaterConfig(max_root_rotations=_MOST_ROOTS),
            bootstrap=root,
        )
        self._history = meta / "root_history"
        self._now, self._not_before = now, not_before
        self._time = _CLOCK
        self._floors = floors

    def refresh(self) -> None:
        with self._timed():
            super().refresh()

    def get_targetinfo(self, target_path: str) -> TargetFile | None:
        with self._timed():
            return super().get_targetinfo(target_path)

    def _load_timestamp(self) -> None:
        # Only here is it known which root counts; python-tuf itself takes the clock when it is made.
        self._floors = self._holding()
        times = {
            _CLOCK: self._now,
            _SEEN: self._floors.signed_at,
            _ROOT: signed_at(self._trusted_set.root),
            _SOFTWARE: self._not_before,
        }
        known = {name: time for name, time in times.items() if time is not None}
        # Of equal ones the first.
        self._time = max(known, key=known.__getitem__)
        self._trusted_set.reference_time = known[self._time]
        super()._load_timestamp()

    def seen(self) -> Floors:
        """The next floors.

        Raises:
            TrustError: a role is older than its floor.
        """
        trusted = self._trusted_set
        versions = {name.removesuffix(".json"): file.version for name, file in trusted.snapshot.meta.items()}
        for role in (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets):
            versions[role.type] = role.version
        for name, floor in self._floors.versions.items():
            if versions.setdefault(name, floor) < floor:
                raise TrustError(
                    f"{name}: version {versions[name]} is offered, but version {floor} was seen before: "
                    "somebody offers an old state of the repository, or it was restored from a backup: give "
                    "snapshot and timestamp other keys (jepa-export release rotate)"
                )
        times = [time for time in (self._floors.signed_at, signed_at(trusted.timestamp)) if time is not None]
        return Floors(versions, max(times, default=None), self._floors.release_seqs)

    def stored_path(self, info: TargetFile) -> str:
        """The name of a file in the repository."""
        if not self._trusted_set.root.consistent_snapshot:
            return info.path
        folder, slash, name = info.path.rpartition("/")
        return f"{folder}{slash}{next(iter(info.hashes.values()))}.{name}"

    def _holding(self) -> Floors:
        """Return the floors without those whose signing keys have been replaced since.

        A floor may have been raised under any earlier root: while a rotation is in progress, also under one
        in which the old and the new key both count.
        """
        root = self._trusted_set.root
        last = self._floors.versions.get(Root.type, root.version)
        known = self._known_roots(last) if last < root.version else {}
        if last not in known:
            # Nothing newer; or the last root is lost, and nothing says which keys signed then.
            return self._floors
        ended = {
            role
            for role in (Timestamp.type, Snapshot.type)
            if any(
                _ends_signers(before, root, role) and not _ends_signers(before, known[last], role)
                for before in known.values()
            )
        }
        # The snapshot holds the versions of all roles but these two, and with them what channels offer.
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

    def _known_roots(self, last: int) -> dict[int, Root]:
        """Return the stored roots up to version ``last``, by version."""
        known = {}
        for path in self._history.glob("*.root.json"):
            with suppress(OSError, exceptions.RepositoryError):
                signed = Metadata.from_bytes(path.read_bytes()).signed
                if isinstance(signed, Root) and signed.version <= last:
                    known[signed.version] = signed
        return known

    @contextmanager
    def _timed(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ExpiredMetadataError as error:
            time = self._trusted_set.reference_time
            if self._time == _CLOCK:
                told = (
                    "if it is right, nobody has signed the repository since, or somebody keeps its newer "
                    "state back: ask who runs it; if it is ahead, set it"
                )
            else:
                told = (
                    f"the clock of this robot says {self._now:%F %R}: set it, or, if it is right, "
                    f"{_AHEAD[self._time]}"
                )
            separator = ": " if self._time == _CLOCK else "; "
            raise TrustError(f"{error} at {time:%F %R} UTC, {self._time}{separator}{told}") from error


class MetadataFetcher(FetcherInterface):
    """Metadata from a source; python-tuf's own way to the bytes has no limits but a length.

    Attributes:
        last: what was asked for last.
        fetched: whether something came that may have been stored since this was set to False.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self.last = "the root that came with the robot"
        self.fetched = False

    def download_bytes(self, url: str, max_length: int) -> bytes:
        self.last = url.removeprefix("/")
        max_bytes = min(max_length, most_bytes(self.last))
        try:
            content = fetch_bytes(self._source, self.last, max_bytes=max_bytes, limits=self._limits)
        except NotFoundError as error:
            # After the newest root there is none; python-tuf knows that by this error.
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        self.fetched = True
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("download_bytes needs no file")


def most_bytes(name: str) -> int:
    """How long a file of metadata may be."""
    return _MAX_SNAPSHOT_BYTES if name.endswith("snapshot.json") else _MAX_METADATA_BYTES


def _ends_signers(before: Root, now: Root, role: str) -> bool:
    """Whether some keys that could sign a role together under one root cannot do so under a later one."""
    then, since = before.roles[role], now.roles[role]
    removed = len({*then.keyids} - {*since.keyids})
    return max(0, then.threshold - removed) < since.threshold


def signed_at(signed: Signed) -> datetime | None:
    """When a role was signed; None: it does not say.

    Raises:
        TrustError: it says no time that can be.
    """
    text = signed.unrecognized_fields.get(SIGNED_AT)
    if text is None:
        return None
    try:
        # Python 3.10 does not read the Z at the end.
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        if time.tzinfo is not None and time < signed.expires:
            return time
    except ValueError:
        pass
    raise TrustError(
        f"{signed.type}: {SIGNED_AT} is {str(text)[:80]!r}, which is no time in UTC before it expires: sign "
        "it again"
    )
