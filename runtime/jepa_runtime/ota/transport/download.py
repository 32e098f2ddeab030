"""Assembles the files of a release: from existing slots, by deltas, or from the repository."""

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
    """Assembles the files of one release in the staging folder.

    Attributes:
        release: The release.
        repository: The signed repository.
        store: The folders of the robot.
        use_deltas: Whether to use deltas.
        free_bytes: Space to leave free on the disk.
        note: Writes to the audit log.
        on_progress: Called with the number of bytes of the release that are present, and the total.
        make_room: Removes slots that are not needed, if the disk is too full.
    """

    release: Release
    repository: Repository
    store: SlotStore
    use_deltas: bool
    free_bytes: int
    note: Callable[..., None]
    on_progress: Progress
    make_room: Callable[[], None]
    _done_bytes: int = field(default=0, init=False)

    def run(self) -> None:
        """Assemble what is missing. May be repeated; completed files stay.

        Raises:
            TrustError: The repository has other files than the signed ones.
            BundleError: The manifest is not valid.
            FetchError: A download failed; another attempt may succeed.
            StorageError: A file cannot be written; another attempt may succeed.
        """
        release, store = self.release, self.store
        sha256 = release.manifest_sha256
        content = self.repository.read(release.manifest_target, MAX_MANIFEST_BYTES)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TrustError(
                f"{release.manifest_target}: not the manifest of release {release.release_seq} (its hash "
                "differs): publish the release again",
                code="trust.manifest_mismatch",
            )
        manifest = parse_manifest(content, release.manifest_target)
        store.prune_staged(sha256, {record.sha256 for record in manifest.files})
        missing = [record for record in manifest.files if not (store.staged(sha256) / record.path).exists()]
        self._check_room(missing)
        total = sum(record.bytes for record in manifest.files)
        self._done_bytes = total - sum(record.bytes for record in missing)
        bytes_from: dict[str, int] = {}
        for record in missing:
            how, made = self._obtain(record, total)
            store.place(made, sha256, record.path)
            bytes_from[how] = bytes_from.get(how, 0) + record.bytes
            self._done_bytes += record.bytes
            self.on_progress(self._done_bytes, total)
        if not (store.staged(sha256) / MANIFEST_NAME).exists():
            part = store.part(sha256)
            atomic_files.write(part, content)
            store.place(part, sha256, MANIFEST_NAME)
        self.note("downloaded", bytes_from=bytes_from)

    def _check_room(self, missing: list[FileRecord]) -> None:
        """Check the free space before the first byte is downloaded."""
        parts = [self.store.part(record.sha256) for record in missing]
        present = sum(part.stat().st_size for part in parts if part.exists())
        needed = sum(record.bytes for record in missing) - present
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
            lambda done, _: self.on_progress(self._done_bytes + done, total),
        )
        return "repository", part

    def _from_slots(self, record: FileRecord) -> Path | None:
        """Copy a file from a slot; return None if no slot has it, or it is damaged."""
        try:
            file = self.store.find(record.sha256)
            return None if file is None else self.store.copy(file, record.sha256)
        except StorageError as error:
            # A disk that cannot be written fails again when the file is downloaded.
            self.note("slot not usable, file is downloaded", path=record.path, reason=str(error))
            return None

    def _from_delta(self, record: FileRecord, total: int) -> Path | None:
        """Build a file from a delta; return None if none is usable."""
        change = self.store.part(f"{record.sha256}.delta")
        for delta in self.release.deltas if self.use_deltas else ():
            if delta.path != record.path or delta.bytes >= record.bytes:
                continue
            base = self.store.find(delta.base_sha256)
            if base is None:
                continue
            made, why = self.store.staging / f"{record.sha256}.made.tmp", ""
            try:
                self.repository.download(
                    delta.target, change, lambda *_: self.on_progress(self._done_bytes, total)
                )
                deltas.apply(base, change, made, sha256=record.sha256, length=record.bytes)
            except UpdateError as error:
                if isinstance(error, FetchError) and not isinstance(error, NotFoundError):
                    raise
                why = str(error)
            with atomic_files.storage_errors(change, "cannot be removed"):
                change.unlink(missing_ok=True)
            if not why:
                return made
            self.note("delta not usable, whole file is downloaded", path=record.path, reason=why)
        return None
