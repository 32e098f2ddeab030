"""Where the journal lies: in a folder of its own, that comes and goes as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.entries import Journal
from jepa_runtime.system_files.root_tree import FILE_READ, RootTree

# Not in /var/lib/jepa-edge: that belongs to the account that serves, which could tell root what to write.
STATE = "var/lib/jepa-edge-configs"
_FILE, _NEW, _UNBORN = "journal.json", "journal.json.new", ".jepa-edge-configs.new"


class JournalStore:
    """The journal of a tree. Methods raise OSError."""

    def __init__(self, tree: RootTree) -> None:
        self._tree = tree

    def load(self) -> Journal | None:
        """The journal; None: nothing is installed.

        Raises:
            SystemFilesError: its folder is there without it, or others may write to it.
            ValidationError: it is damaged.
        """
        if not self._stands():
            return None
        with self._tree.folder(STATE) as folder:
            _check_private(folder, self._tree)
            try:
                fd = os.open(_FILE, FILE_READ, dir_fd=folder)
            except FileNotFoundError as error:
                where = self._tree.root / STATE
                raise SystemFilesError(f"{where}: is there, but not {_FILE} in it: move it away") from error
            with os.fdopen(fd, "rb") as file:
                return Journal.model_validate_json(file.read())

    def save(self, journal: Journal) -> None:
        """Put the journal on the disk: at every moment the one before, or this one, is there whole."""
        if self._stands():
            with self._tree.folder(STATE) as folder:
                _write(folder, _NEW, journal)
                os.rename(_NEW, _FILE, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            return
        standing = self._tree.standing(STATE)
        first, *rest = PurePosixPath(STATE).relative_to(standing).parts
        unborn = os.path.join(standing, _UNBORN)
        inner = unborn
        self._tree.make_folder(inner, 0o755 if rest else 0o700)
        for name in rest:
            inner = os.path.join(inner, name)
            self._tree.make_folder(inner, 0o700 if name == rest[-1] else 0o755)
        with self._tree.folder(inner) as folder:
            _write(folder, _FILE, journal)
            os.fsync(folder)
        self._tree.rename(unborn, first)

    def remove(self, journal: Journal) -> None:
        """Remove the journal if it is there, with the folders that were made for it."""
        if self._stands():
            top = PurePosixPath(STATE)
            while str(top.parent) in journal.made and self._is_alone(top):
                top = top.parent
            self._tree.rename(str(top), _UNBORN)
        self.clean()

    def clean(self) -> None:
        """Remove what a death left of a journal that was about to come or go."""
        for parent in PurePosixPath(STATE).parents:
            self._tree.remove_all(str(parent / _UNBORN))

    def _stands(self) -> bool:
        try:
            return self._tree.standing(f"{STATE}/{_FILE}") == STATE
        except NotADirectoryError as error:
            where = self._tree.root / STATE
            raise SystemFilesError(f"{where}: lies behind something that is no folder, or a link") from error

    def _is_alone(self, path: PurePosixPath) -> bool:
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
            f"{tree.root / STATE}: others than this account may write to it: do not trust it"
        )
