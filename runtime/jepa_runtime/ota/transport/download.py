"""The files of a release: from the slots where they are there already, made from others by a delta where one
is offered, else from the repository.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jepa_runtime.bundle import MANIFEST_NAME, FileRecord, parse_manifest
from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from jepa_runtime.errors import FetchError, StorageError, TrustError, UpdateError
from jepa_runtime.ota.release import Release
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport import deltas
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.repository_sources import NotFoundError
from jepa_runtime.ota.trust.metadata import Floors
from jepa_runtime.util import atomic_files


class Repository(Protocol):
    """A signed repository; :class:`~jepa_runtime.ota.trust.repository_trust.RepositoryTrust` is one."""

    def refresh(self, floors: Floors) -> Floors: ...

    def read(self, path: str, max_bytes: int) -> bytes: ...

    def download(self, path: str, part: Path, progress: Progress | None = None) -> None: ...


@dataclass(kw_only=True)
class Download:
    """Gathers the files of one release in the staging folder.

    Attributes:
        use_deltas: whether files may be made from others.
        free_bytes: to be left free on the disk.
        note: is told what came from where.
        progress: is told how many bytes of the release are there, and of how many.
        make_room: removes what nobody needs, where there is no room.
    """

    release: Release
    repository: Repository
    store: SlotStore
    use_deltas: bool
    free_bytes: int
    note: Callable[..., None]
    progress: Progress
    make_room: Callable[[], None]
    _there: int = field(default=0, init=False)

    def run(self) -> None:
        """Gather what is missing. May be called again; what has come stays.

        Raises:
            TrustError: the repository has something else than what was signed.
            BundleError: the manifest is not valid.
            FetchError, StorageError: another attempt may succeed.
        """
        release, store = self.release, self.store
        sha256 = release.manifest_sha256
        content = self.repository.read(release.manifest_target, MAX_MANIFEST_BYTES)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TrustError(
                f"{release.manifest_target}: is not the manifest that release {release.release_seq} names: "
                "publish it again"
            )
        manifest = parse_manifest(content, release.manifest_target)
        store.keep_staged(sha256, {record.sha256 for record in manifest.files})
        missing = [record for record in manifest.files if not (store.staged(sha256) / record.path).exists()]
        self._check_room(missing)
        total = sum(record.bytes for record in manifest.files)
        self._there = total - sum(record.bytes for record in missing)
        came: dict[str, int] = {}
        for record in missing:
            how, made = self._obtain(record, total)
            store.place(made, sha256, record.path)
            came[how] = came.get(how, 0) + record.bytes
            self._there += record.bytes
            self.progress(self._there, total)
        if not (store.staged(sha256) / MANIFEST_NAME).exists():
            part = store.part(sha256)
            atomic_files.write(part, content)
            store.place(part, sha256, MANIFEST_NAME)
        self.note("gathered", bytes_from=came)

    def _check_room(self, missing: list[FileRecord]) -> None:
        """Before the first byte: an update that cannot end is not to fill the disk."""
        parts = [self.store.part(record.sha256) for record in missing]
        begun = sum(part.stat().st_size for part in parts if part.exists())
        needed = sum(record.bytes for record in missing) - begun
        what = f"{self.store.root}: release {self.release.release_seq}"
        room = what, self.store.staging, needed, self.free_bytes
        try:
            atomic_files.check_free_space(*room)
        except StorageError:
            self.make_room()
            atomic_files.check_free_space(*room)

    def _obtain(self, record: FileRecord, total: int) -> tuple[str, Path]:
        if made := self._from_slots(record):
            return "slots", made
        if made := self._from_delta(record, total):
            return "deltas", made
        part = self.store.part(record.sha256)
        self.repository.download(
            f"{self.release.folder}/{record.path}",
            part,
            lambda done, _: self.progress(self._there + done, total),
        )
        return "repository", part

    def _from_slots(self, record: FileRecord) -> Path | None:
        """A file that is here already; None: it is not, or the disk does not give it any more."""
        try:
            file = self.store.find(record.sha256)
            return None if file is None else self.store.copy(file, record.sha256)
        except StorageError as error:
            # A disk that takes nothing more says so again when the file is fetched.
            self.note("a slot was of no use, the file is fetched", path=record.path, reason=str(error))
            return None

    def _from_delta(self, record: FileRecord, total: int) -> Path | None:
        """A file that a delta made; None: no delta did, which is told and costs time only."""
        change = self.store.part(f"{record.sha256}.delta")
        for delta in self.release.deltas if self.use_deltas else ():
            if delta.path != record.path or delta.bytes >= record.bytes:
                continue
            base = self.store.find(delta.base_sha256)
            if base is None:
                continue
            made, why = self.store.staging / f"{record.sha256}.made.tmp", ""
            try:
                self.repository.download(delta.target, change, lambda *_: self.progress(self._there, total))
                deltas.apply(base, change, made, sha256=record.sha256, length=record.bytes)
            except UpdateError as error:
                if isinstance(error, FetchError) and not isinstance(error, NotFoundError):
                    raise
                why = str(error)
            with atomic_files.storage_errors(change, "cannot be removed"):
                change.unlink(missing_ok=True)
            if not why:
                return made
            self.note("a delta was of no use, the whole file is fetched", path=record.path, reason=why)
        return None
