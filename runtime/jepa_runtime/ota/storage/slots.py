"""The folders of a robot: what is being fetched, the slots, which one serves, and which one served well.

::

    staging/SHA256.part          a file that is being fetched, named by its hash
    staging/MANIFEST/bundle/     files of a release that have come
    slots/MANIFEST/bundle/       a whole release, read-only, as the strict reader of bundles wants it
    slots/MANIFEST/complete      its mark: without it, the slot does not count and is removed
    current, good                links to slots/MANIFEST/bundle
    trash/                       what is being removed

MANIFEST is the SHA-256 of the manifest, so a slot never changes. A file counts as staged once it has been
hashed on the disk and moved to its place; a release, once it has its mark; a switch is one rename of a link.
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
_told = partial(atomic_files.storage_errors, what="cannot be used")
_LINKED = re.compile(rf"slots/([0-9a-f]{{64}})/{BUNDLE}")


class SlotStore:
    """The folders below ``root``; :meth:`recover` comes first, reading apart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging, self.slots, self.trash = root / "staging", root / "slots", root / "trash"

    def part(self, sha256: str) -> Path:
        """Where a file is put together."""
        return self.staging / f"{sha256}.part"

    def staged(self, manifest_sha256: str) -> Path:
        """Where the files of a release are gathered: its future bundle."""
        return self.staging / manifest_sha256 / BUNDLE

    def folder(self, manifest_sha256: str) -> Path:
        """The bundle in a slot."""
        return self.slots / manifest_sha256 / BUNDLE

    def complete(self, manifest_sha256: str) -> bool:
        """Whether a slot has its mark."""
        return (self.slots / manifest_sha256 / MARK).is_file()

    def present(self) -> list[str]:
        """The complete slots, the newest first.

        Raises:
            StorageError: they cannot be listed.
        """
        with _told(self.slots):
            marks = [path / MARK for path in self.slots.iterdir() if self.complete(path.name)]
            return [mark.parent.name for mark in sorted(marks, key=_age, reverse=True)]

    def place(self, part: Path, manifest_sha256: str, relative: str) -> None:
        """Move a file that was hashed on the disk to its place in a release that is being gathered.

        Raises:
            StorageError: it cannot be.
        """
        target = self.staged(manifest_sha256) / relative
        atomic_files.make_folder(target.parent)
        atomic_files.move(part, target)

    def adopt(self, manifest_sha256: str) -> None:
        """Make a slot of the release that was gathered; nothing happens if there is one.

        Raises:
            StorageError: it cannot be made.
        """
        if self.complete(manifest_sha256):
            return
        slot = self.slots / manifest_sha256
        self._remove(slot)
        with _told(self.staged(manifest_sha256)):
            for folder, _, names in os.walk(self.staged(manifest_sha256)):
                for name in names:
                    os.chmod(Path(folder, name), 0o444)
                os.chmod(folder, 0o555)
        atomic_files.move(self.staging / manifest_sha256, slot)
        atomic_files.write(slot / MARK, b"")

    def manifest(self, manifest_sha256: str) -> Manifest:
        """What a slot says about itself.

        Raises:
            StorageError: it cannot be read, or is not what its name says.
        """
        path = self.folder(manifest_sha256) / MANIFEST_NAME
        with _told(path):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest_sha256:
            raise StorageError(f"{path}: is not what was stored there: the disk is damaged, go back")
        try:
            return parse_manifest(content, str(path))
        except BundleError as error:
            raise StorageError(str(error)) from error

    def open(self, manifest_sha256: str) -> Bundle:
        """The bundle in a slot, all of which is read and compared with what was signed.

        Raises:
            BundleError: it is damaged, or another bundle than the one that was stored there.
        """
        bundle = Bundle.open(self.folder(manifest_sha256))
        if bundle.sha256 != manifest_sha256:
            raise BundleError(
                f"{bundle.path}: holds another bundle ({bundle.sha256[:12]}) than the one that was signed: "
                "go back (`jepa-runtime update rollback`), or update"
            )
        return bundle

    def damage(self, manifest_sha256: str) -> str:
        """Why a slot cannot be used, all of which is read; empty: it can."""
        try:
            self.open(manifest_sha256)
        except BundleError as error:
            return str(error)
        return ""

    def find(self, sha256: str) -> Path | None:
        """A file with this hash in a complete slot, going by the manifests.

        Raises:
            StorageError: the slots cannot be listed.
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
        """A copy of a file to be placed; None if it has not the hash that it should.

        Never a link: what happens to one slot must not happen to another.

        Raises:
            StorageError: it cannot be made.
        """
        copied = self.staging / f"{sha256}.copy.tmp"
        right = False
        try:
            with _told(file):
                shutil.copyfile(file, copied)
                atomic_files.sync_file(copied)
                right = file_sha256(copied) == sha256
        finally:
            if not right:
                with _told(copied):
                    copied.unlink(missing_ok=True)
        return copied if right else None

    def keep_staged(self, manifest_sha256: str, hashes: Collection[str]) -> None:
        """Remove what was fetched for anything but one release.

        Args:
            hashes: of the files that are wanted, and may have come in part.

        Raises:
            StorageError: it cannot be removed.
        """
        for entry in _entries(self.staging):
            if entry.name != manifest_sha256 and entry.name.partition(".")[0] not in hashes:
                self._remove(entry)

    def drop(self, manifest_sha256: str) -> None:
        """Remove what there is of a release, unless a link leads to it.

        Raises:
            StorageError: it cannot be removed.
        """
        self._remove(self.staging / manifest_sha256)
        if manifest_sha256 not in (self.current(), self.good()):
            self._remove(self.slots / manifest_sha256)

    def current(self) -> str | None:
        """Which slot serves; None: none.

        Raises:
            StorageError: the link leads elsewhere.
        """
        return self._linked("current")

    def good(self) -> str | None:
        """Which slot served well; None: none.

        Raises:
            StorageError: the link leads elsewhere.
        """
        return self._linked("good")

    def point(self, name: str, manifest_sha256: str | None) -> None:
        """Let ``current`` or ``good`` lead to a slot, or to none; at once.

        Raises:
            StorageError: it is not complete, or the link cannot be made.
        """
        link = self.root / name
        if manifest_sha256 is None:
            atomic_files.discard(link, self.trash)
        elif not self.complete(manifest_sha256):
            raise StorageError(f"{self.slots / manifest_sha256}: is not complete: it cannot be {name}")
        elif self._linked(name) != manifest_sha256:
            atomic_files.replace_symlink(link, f"slots/{manifest_sha256}/{BUNDLE}")

    def collect(self, keep: Collection[str], others: int) -> list[str]:
        """Remove slots that nobody needs.

        Args:
            keep: slots that stay, beside those to which a link leads.
            others: how many of the newest stay as well.

        Returns:
            The slots that were removed.

        Raises:
            StorageError: one cannot be removed.
        """
        needed = {*keep, self.current(), self.good()}
        removed = [slot for slot in self.present() if slot not in needed][others:]
        for slot in removed:
            self._remove(self.slots / slot)
        return removed

    def recover(self) -> list[str]:
        """Make what is missing, and remove what a power cut may have left: slots without their mark,
        temporary files, rests of removals.

        Returns:
            The names of what was removed.

        Raises:
            StorageError: it cannot be removed, or a folder not be made.
        """
        for folder in (self.staging, self.slots, self.trash):
            atomic_files.make_folder(folder)
        half = [entry for entry in _entries(self.slots) if not self.complete(entry.name)]
        rests = [
            entry
            for folder in (self.root, self.staging, *(self.slots / slot for slot in self.present()))
            for entry in _entries(folder)
            if entry.name.endswith(".tmp")
        ]
        for entry in half + rests:
            self._remove(entry)
        atomic_files.empty_folder(self.trash)
        return [str(entry.relative_to(self.root)) for entry in half + rests]

    def _linked(self, name: str) -> str | None:
        link = self.root / name
        with _told(link):
            if not link.is_symlink():
                if link.exists():
                    raise StorageError(f"{link}: is no link: remove it, then `jepa-runtime update rollback`")
                return None
            target = os.readlink(link)
        found = _LINKED.fullmatch(target)
        if found is None:
            raise StorageError(f"{link}: leads to {target}, which is no slot: remove the link")
        return found[1]

    def _remove(self, path: Path) -> None:
        """Also what is read-only; it is made writable before it is moved away, so that all trash can be
        emptied."""
        if not path.is_symlink():
            with _told(path):
                for folder, _, _ in os.walk(path):
                    os.chmod(folder, 0o755)
        atomic_files.discard(path, self.trash)


def find_slot(folder: Path) -> tuple[SlotStore, str] | None:
    """The store and the name of the slot whose bundle is in ``folder``, which may be a link to it; None: it
    is in no slot.

    Raises:
        StorageError: the folder cannot be looked at.
    """
    with _told(folder):
        real = folder.resolve()
        found = _LINKED.fullmatch("/".join(real.parts[-3:]))
        if found is None:
            return None
        store = SlotStore(real.parents[2])
        return (store, found[1]) if store.complete(found[1]) else None


def _entries(folder: Path) -> list[Path]:
    with _told(folder):
        return sorted(folder.iterdir())


def _age(mark: Path) -> float:
    return mark.stat().st_mtime
