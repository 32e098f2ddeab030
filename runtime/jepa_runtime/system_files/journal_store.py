"""Store the journal in its own folder, which is created and removed atomically."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.entries import Journal
from jepa_runtime.system_files.root_tree import FILE_READ, RootTree

# Not in /var/lib/jepa-edge: the account of the serving process owns it, and could make root write any file.
STATE = "var/lib/jepa-edge-configs"
_FILE, _NEW, _TEMPORARY_FOLDER = "journal.json", "journal.json.new", ".jepa-edge-configs.new"


class JournalStore:
    """Reads and writes the journal of a tree. All methods may raise OSError."""

    def __init__(self, tree: RootTree) -> None:
        self._tree = tree

    def load(self) -> Journal | None:
        """Return the journal, or None if nothing is installed.

        Raises:
            SystemFilesError: The folder exists without a journal, or other accounts may write to it.
            ValidationError: The journal is malformed.
        """
        if not self._exists():
            return None
        with self._tree.folder(STATE) as folder:
            _check_private(folder, self._tree)
            try:
                fd = os.open(_FILE, FILE_READ, dir_fd=folder)
            except FileNotFoundError as error:
                raise SystemFilesError(
                    f"{self._tree.root / STATE} exists but has no {_FILE}: move the folder away",
                    code="system_files.journal_missing",
                ) from error
            with os.fdopen(fd, "rb") as file:
                return Journal.model_validate_json(file.read())

    def save(self, journal: Journal) -> None:
        """Write the journal atomically and durably."""
        if self._exists():
            with self._tree.folder(STATE) as folder:
                _write(folder, _NEW, journal)
                os.rename(_NEW, _FILE, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            return
        existing = self._tree.deepest_existing(STATE)
        first, *rest = PurePosixPath(STATE).relative_to(existing).parts
        temporary = os.path.join(existing, _TEMPORARY_FOLDER)
        inner = temporary
        self._tree.make_folder(inner, 0o755 if rest else 0o700)
        for name in rest:
            inner = os.path.join(inner, name)
            self._tree.make_folder(inner, 0o700 if name == rest[-1] else 0o755)
        with self._tree.folder(inner) as folder:
            _write(folder, _FILE, journal)
            os.fsync(folder)
        self._tree.rename(temporary, first)

    def remove(self, journal: Journal) -> None:
        """Remove the journal if it exists, with the folders that were created for it."""
        if self._exists():
            top = PurePosixPath(STATE)
            while str(top.parent) in journal.made and self._is_only_entry(top):
                top = top.parent
            self._tree.rename(str(top), _TEMPORARY_FOLDER)
        self.clean()

    def clean(self) -> None:
        """Remove temporary folders left by an interruption."""
        for parent in PurePosixPath(STATE).parents:
            self._tree.remove_all(str(parent / _TEMPORARY_FOLDER))

    def _exists(self) -> bool:
        try:
            return self._tree.deepest_existing(f"{STATE}/{_FILE}") == STATE
        except NotADirectoryError as error:
            raise SystemFilesError(
                f"{self._tree.root / STATE} cannot be reached: a component of the path is a symbolic link or "
                "not a folder: replace it by a folder",
                code="system_files.journal_unreachable",
            ) from error

    def _is_only_entry(self, path: PurePosixPath) -> bool:
        with self._tree.folder(str(path.parent)) as folder:
            return os.listdir(folder) == [path.name]


def _write(folder: int, name: str, journal: Journal) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(journal.model_dump_json(indent=1).encode())
        file.flush()
        os.fsync(file.fileno())


def _check_private(folder: int, tree: RootTree) -> None:
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SystemFilesError(
            f"{tree.root / STATE} is writable by other accounts, so its journal cannot be trusted: check its "
            "content, then make it accessible to this account only",
            code="system_files.journal_untrusted",
        )
