"""The folders of a robot: staging, slots, and the links to the active and the last known good model.

::

    staging/SHA256.part          a partially downloaded file, named by its hash
    staging/MANIFEST/bundle/     complete files of a release
    slots/MANIFEST/bundle/       a complete release, read-only, as the strict bundle reader expects it
    slots/MANIFEST/complete      marker: a slot without it is removed
    current, good                links to slots/MANIFEST/bundle
    trash/                       what is being removed

MANIFEST is the SHA-256 of the manifest, so a slot never changes. A file is staged once it was hashed on the
disk and moved to its place; a release, once it has its marker; a switch is one rename of a link.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path

from jepa_runtime.bundle import MANIFEST_NAME, Bundle, Manifest, parse_manifest
from jepa_runtime.errors import BundleError, StorageError
from jepa_runtime.util import atomic_files
from jepa_runtime.util.compat import file_sha256

BUNDLE, MARK = "bundle", "complete"
_disk_errors = partial(atomic_files.storage_errors, what="cannot be used")
_LINKED = re.compile(rf"slots/([0-9a-f]{{64}})/{BUNDLE}")


class SlotStore:
    """The folders below ``root``; call :meth:`recover` before writing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging, self.slots, self.trash = root / "staging", root / "slots", root / "trash"

    def part(self, sha256: str) -> Path:
        """Return the path of a partially downloaded file."""
        return self.staging / f"{sha256}.part"

    def staged(self, manifest_sha256: str) -> Path:
        """Return the folder in which a release is assembled: its future bundle."""
        return self.staging / manifest_sha256 / BUNDLE

    def folder(self, manifest_sha256: str) -> Path:
        """Return the folder of the bundle in a slot."""
        return self.slots / manifest_sha256 / BUNDLE

    def complete(self, manifest_sha256: str) -> bool:
        """Return whether a slot has its marker."""
        return (self.slots / manifest_sha256 / MARK).is_file()

    def present(self) -> list[str]:
        """Return the complete slots, the newest first.

        Raises:
            StorageError: They cannot be listed.
        """
        with _disk_errors(self.slots):
            marks = [path / MARK for path in self.slots.iterdir() if self.complete(path.name)]
            return [mark.parent.name for mark in sorted(marks, key=_age, reverse=True)]

    def place(self, part: Path, manifest_sha256: str, relative: str) -> None:
        """Move a file that was hashed on the disk to its place in a staged release.

        Raises:
            StorageError: It cannot be moved.
        """
        target = self.staged(manifest_sha256) / relative
        atomic_files.make_folder(target.parent)
        atomic_files.move(part, target)

    def adopt(self, manifest_sha256: str) -> None:
        """Turn a staged release into a slot; do nothing if the slot exists.

        Raises:
            StorageError: It cannot be created.
        """
        if self.complete(manifest_sha256):
            return
        slot = self.slots / manifest_sha256
        self._remove(slot)
        with _disk_errors(self.staged(manifest_sha256)):
            for folder, _, names in os.walk(self.staged(manifest_sha256)):
                for name in names:
                    os.chmod(Path(folder, name), 0o444)
                os.chmod(folder, 0o555)
        atomic_files.move(self.staging / manifest_sha256, slot)
        atomic_files.write(slot / MARK, b"")

    def manifest(self, manifest_sha256: str) -> Manifest:
        """Return the manifest of a slot.

        Raises:
            StorageError: It cannot be read, or has another hash than the slot's name.
        """
        path = self.folder(manifest_sha256) / MANIFEST_NAME
        with _disk_errors(path):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest_sha256:
            raise StorageError(
                f"{path}: has another hash than when it was stored: the disk is damaged, run `jepa-runtime "
                "update rollback`",
                code="storage.damaged_slot",
            )
        try:
            return parse_manifest(content, str(path))
        except BundleError as error:
            raise StorageError(str(error), code="storage.damaged_slot") from error

    def open(self, manifest_sha256: str) -> Bundle:
        """Open the bundle in a slot; every file is read and compared with its signed hash.

        Raises:
            BundleError: The bundle is damaged, or another one than the slot's name says.
        """
        bundle = Bundle.open(self.folder(manifest_sha256))
        if bundle.sha256 != manifest_sha256:
            raise BundleError(
                f"{bundle.path}: holds another bundle ({bundle.sha256[:12]}) than the signed one: run "
                "`jepa-runtime update rollback`, or update",
                code="storage.damaged_slot",
            )
        return bundle

    def damage(self, manifest_sha256: str) -> str:
        """Return why a slot is damaged, or an empty string; every file is read."""
        try:
            self.open(manifest_sha256)
        except BundleError as error:
            return str(error)
        return ""

    def find(self, sha256: str) -> Path | None:
        """Return a file with this hash in a complete slot, according to the manifests, or None.

        Raises:
            StorageError: The slots cannot be listed.
        """
        for slot in self.present():
            try:
                files = self.manifest(slot).files
            except StorageError:
                continue
            for record in files:
                if record.sha256 == sha256:
                    return self.folder(slot) / record.path
        return None

    def copy(self, file: Path, sha256: str) -> Path | None:
        """Copy a file to be placed; return None if it does not have the expected hash.

        The file is never linked: damage to one slot must not spread to another.

        Raises:
            StorageError: It cannot be copied.
        """
        copied = self.staging / f"{sha256}.copy.tmp"
        is_intact = False
        try:
            with _disk_errors(file):
                shutil.copyfile(file, copied)
                atomic_files.sync_file(copied)
                is_intact = file_sha256(copied) == sha256
        finally:
            if not is_intact:
                with _disk_errors(copied):
                    copied.unlink(missing_ok=True)
        return copied if is_intact else None

    def prune_staged(self, manifest_sha256: str, hashes: Collection[str]) -> None:
        """Remove staged files of every other release.

        Args:
            manifest_sha256: The release to keep.
            hashes: Hashes of its files, which may be downloaded partially.

        Raises:
            StorageError: A file cannot be removed.
        """
        for entry in _entries(self.staging):
            if entry.name != manifest_sha256 and entry.name.partition(".")[0] not in hashes:
                self._remove(entry)

    def drop(self, manifest_sha256: str) -> None:
        """Remove a release from staging and slots, unless a link points to it.

        Raises:
            StorageError: It cannot be removed.
        """
        self._remove(self.staging / manifest_sha256)
        if manifest_sha256 not in (self.current(), self.good()):
            self._remove(self.slots / manifest_sha256)

    def current(self) -> str | None:
        """Return the slot of the active model, or None.

        Raises:
            StorageError: The link points elsewhere.
        """
        return self._linked("current")

    def good(self) -> str | None:
        """Return the slot of the last known good model, or None.

        Raises:
            StorageError: The link points elsewhere.
        """
        return self._linked("good")

    def point(self, name: str, manifest_sha256: str | None) -> None:
        """Point ``current`` or ``good`` atomically to a slot, or remove the link.

        Raises:
            StorageError: The slot is not complete, or the link cannot be created.
        """
        link = self.root / name
        if manifest_sha256 is None:
            atomic_files.discard(link, self.trash)
        elif not self.complete(manifest_sha256):
            raise StorageError(
                f"{self.slots / manifest_sha256}: is not complete, so the link {name} cannot point to it",
                code="storage.incomplete_slot",
            )
        elif self._linked(name) != manifest_sha256:
            atomic_files.replace_symlink(link, f"slots/{manifest_sha256}/{BUNDLE}")

    def collect(self, keep: Collection[str], others: int) -> list[str]:
        """Remove slots that are no longer needed.

        Args:
            keep: Slots to keep in addition to those that a link points to.
            others: Number of further slots to keep, the newest ones.

        Returns:
            The removed slots.

        Raises:
            StorageError: A slot cannot be removed.
        """
        needed = {*keep, self.current(), self.good()}
        removed = [slot for slot in self.present() if slot not in needed][others:]
        for slot in removed:
            self._remove(self.slots / slot)
        return removed

    def recover(self) -> list[str]:
        """Create missing folders, and remove what a power cut may have left.

        Leftovers are slots without a marker, temporary files, and incomplete removals.

        Returns:
            The names of the removed entries.

        Raises:
            StorageError: An entry cannot be removed, or a folder cannot be created.
        """
        for folder in (self.staging, self.slots, self.trash):
            atomic_files.make_folder(folder)
        incomplete = [entry for entry in _entries(self.slots) if not self.complete(entry.name)]
        temporary = [
            entry
            for folder in (self.root, self.staging, *(self.slots / slot for slot in self.present()))
            for entry in _entries(folder)
            if entry.name.endswith(".tmp")
        ]
        for entry in incomplete + temporary:
            self._remove(entry)
        atomic_files.empty_folder(self.trash)
        return [str(entry.relative_to(self.root)) for entry in incomplete + temporary]

    def _linked(self, name: str) -> str | None:
        link = self.root / name
        with _disk_errors(link):
            if not link.is_symlink():
                if link.exists():
                    raise StorageError(
                        f"{link}: is not a link: remove it, then run `jepa-runtime update rollback`",
                        code="storage.invalid_link",
                    )
                return None
            target = os.readlink(link)
        found = _LINKED.fullmatch(target)
        if found is None:
            raise StorageError(
                f"{link}: points to {target}, which is not a slot: remove the link",
                code="storage.invalid_link",
            )
        return found[1]

    def _remove(self, path: Path) -> None:
        """Remove a path; folders become writable first, so that the trash can be emptied."""
        if not path.is_symlink():
            with _disk_errors(path):
                for folder, _, _ in os.walk(path):
                    os.chmod(folder, 0o755)
        atomic_files.discard(path, self.trash)


def find_slot(folder: Path) -> tuple[SlotStore, str] | None:
    """Return the store and the slot whose bundle is in ``folder``, which may be a link; None: no slot.

    Raises:
        StorageError: The folder cannot be read.
    """
    with _disk_errors(folder):
        real = folder.resolve()
        found = _LINKED.fullmatch("/".join(real.parts[-3:]))
        if found is None:
            return None
        store = SlotStore(real.parents[2])
        return (store, found[1]) if store.complete(found[1]) else None


def _entries(folder: Path) -> list[Path]:
    with _disk_errors(folder):
        return sorted(folder.iterdir())


def _age(mark: Path) -> float:
    return mark.stat().st_mtime
