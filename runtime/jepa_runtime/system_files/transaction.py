"""Install and undo system files below a root, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.change_plan import TO_DO, Action, FileChange, plan
from jepa_runtime.system_files.entries import Entry, File, Item, Journal, Obstacle, is_same
from jepa_runtime.system_files.journal_store import STATE, JournalStore
from jepa_runtime.system_files.root_tree import RootTree
from jepa_runtime.system_files.shipped import Shipped
from jepa_runtime.util.strict_json import describe_problems

# Suffix of the previous file where `undo` keeps a changed file in place.
BACKUP_SUFFIX = ".before-jepa-edge"


@dataclass(frozen=True, kw_only=True)
class Undone:
    """The paths that :func:`undo` changed.

    Attributes:
        restored: Have their previous content again.
        removed: Did not exist before.
        kept: Were changed since they were installed, and were left unchanged.
    """

    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def preview(root: Path, files: Sequence[Shipped]) -> list[FileChange]:
    """Return the changes that :func:`apply` would make.

    Raises:
        SystemFilesError: The root cannot be read.
    """
    with _mapped_errors(root, "cannot read the installed files"), RootTree(root) as tree:
        return _plan(tree, files, JournalStore(tree).load())


def apply(root: Path, files: Sequence[Shipped], *, keep_changed: bool = False) -> list[FileChange]:
    """Install ``files`` below ``root``, all or none.

    Args:
        root: The folder that paths are relative to.
        files: The files to install.
        keep_changed: Leave files unchanged that were modified since they were installed.

    Returns:
        The planned changes, of which those that are new or changed were made.

    Raises:
        SystemFilesError: A path is blocked or was modified, or the installation failed; the root is
            unchanged.
    """
    with _mapped_errors(root, "nothing was installed"), RootTree(root) as tree, tree.locked():
        store = JournalStore(tree)
        store.clean()
        before = store.load()
        changes = _plan(tree, files, before)
        _check_installable(root, changes, keep_changed)
        to_do = [change for change in changes if change.action in TO_DO]
        if to_do:
            _install(tree, store, before, to_do)
        return changes


def undo(root: Path, *, keep_changed: bool = False) -> Undone:
    """Restore the state of ``root`` before the first :func:`apply`.

    Args:
        root: The folder that paths are relative to.
        keep_changed: Leave files unchanged that were modified since they were installed; the previous file is
            restored next to them.

    Raises:
        SystemFilesError: A file was modified, or the operation failed. Calling it again continues.
    """
    outcome = "not everything was restored; fix the cause and run undo again"
    with _mapped_errors(root, outcome), RootTree(root) as tree, tree.locked():
        store = JournalStore(tree)
        store.clean()
        journal = store.load()
        return Undone() if journal is None else _undo(tree, store, journal, keep_changed)


def _plan(tree: RootTree, files: Sequence[Shipped], journal: Journal | None) -> list[FileChange]:
    found = {file.path: tree.read(file.path) for file in files}
    for file in files:
        claimed = journal is not None and file.path in journal.entries
        if not claimed and tree.is_staged(file.path):
            found[file.path] = Obstacle("has a file next to it with the temporary name of the installation")
    return plan(files, found, journal)


def _check_installable(root: Path, changes: Sequence[FileChange], keep_changed: bool) -> None:
    rejected = [change for change in changes if change.action is Action.BLOCKED]
    if not keep_changed:
        rejected += [change for change in changes if change.action is Action.CONFLICT]
    if rejected:
        reasons = "; ".join(f"{root / change.file.path} {change.reason}" for change in rejected)
        if rejected[0].action is Action.BLOCKED:
            raise SystemFilesError(
                f"{reasons}: move it away; nothing was installed", code="system_files.path_blocked"
            )
        raise SystemFilesError(
            f"{reasons}: restore the installed file, or keep the modified one with --keep-changed; nothing "
            "was installed",
            code="system_files.file_modified",
        )


def _install(
    tree: RootTree, store: JournalStore, before: Journal | None, to_do: Sequence[FileChange]
) -> None:
    wanted = {
        change.file.path: File(
            content=change.file.content, mode=change.file.mode, uid=os.geteuid(), gid=os.getegid()
        )
        for change in to_do
    }
    folders = _missing(tree, [*wanted, STATE])
    existing = {tree.deepest_existing(path) for path in (*wanted, STATE)}
    times = {folder: tree.time(folder) for folder in existing}
    journal = _extended(before or Journal(), to_do, wanted, folders, times)
    try:
        store.save(journal)
        for folder in folders:
            tree.make_folder(folder)
        _write_all(tree, wanted)
    except BaseException as error:
        try:
            found = {change.file.path: change.found for change in to_do}
            _restore(tree, store, found, folders, times, before, journal)
        except OSError as second:
            raise SystemFilesError(
                f"installing below {tree.root} failed ({error}), and so did restoring it ({second}): fix the "
                "cause, then run `jepa-runtime configs undo`, or apply again",
                code="system_files.restore_failed",
            ) from error
        raise


def _extended(
    journal: Journal,
    to_do: Sequence[FileChange],
    wanted: Mapping[str, File],
    folders: Sequence[str],
    times: Mapping[str, int],
) -> Journal:
    """Return the journal with the planned changes added; its record of the previous state stays."""
    entries = dict(journal.entries)
    for change in to_do:
        path = change.file.path
        entry = entries.get(path) or Entry(before=change.found, ours=())
        ours = tuple(dict.fromkeys((*entry.ours, wanted[path].fingerprint)))
        entries[path] = Entry(before=entry.before, ours=ours)
    made = tuple(dict.fromkeys((*journal.made, *folders)))
    earlier = {folder: time for folder, time in times.items() if folder not in journal.made}
    return Journal(entries=entries, made=made, times=earlier | journal.times)


def _undo(tree: RootTree, store: JournalStore, journal: Journal, keep_changed: bool) -> Undone:
    found = {path: tree.read(path) for path in journal.entries}
    changed = [
        path
        for path, entry in journal.entries.items()
        if isinstance(item := found[path], Obstacle) or entry.is_changed(item)
    ]
    if changed and not keep_changed:
        paths = ", ".join(str(tree.root / path) for path in changed)
        raise SystemFilesError(
            f"{paths} was changed since it was installed: restore the installed file, or keep the modified "
            "one with --keep-changed; nothing was undone",
            code="system_files.file_modified",
        )
    targets = {path: entry.before for path, entry in journal.entries.items() if path not in changed}
    for path in changed:
        backup = f"{path}{BACKUP_SUFFIX}"
        before = journal.entries[path].before
        if before is not None:
            _check_free(tree, backup, before)
            targets[backup] = before
    _restore(tree, store, targets, journal.made, journal.times, None, journal)
    return Undone(
        restored=tuple(path for path, item in targets.items() if item is not None),
        removed=tuple(path for path, item in targets.items() if item is None and found[path] is not None),
        kept=tuple(changed),
    )


def _restore(
    tree: RootTree,
    store: JournalStore,
    targets: Mapping[str, Item],
    folders: Sequence[str],
    times: Mapping[str, int],
    before: Journal | None,
    journal: Journal,
) -> None:
    """Write ``targets``, remove ``folders``, and restore the journal ``before``."""
    for path in (*targets, *journal.entries):
        tree.unstage(path)
    _write_all(tree, {path: item for path, item in targets.items() if not _is_at(tree, path, item)})
    for folder in sorted(folders, reverse=True):
        tree.remove_folder(folder)
    _set_times(tree, times)
    if before is None:
        store.remove(journal)
        # Removing the journal changed the modification time of its parent folder.
        _set_times(tree, times)
    elif store.load() != before:
        store.save(before)


def _set_times(tree: RootTree, times: Mapping[str, int]) -> None:
    for folder, time in times.items():
        tree.set_time(folder, time)


def _write_all(tree: RootTree, targets: Mapping[str, Item]) -> None:
    """Write all targets to temporary files, then rename all, then read them back."""
    for path, item in targets.items():
        tree.stage(path, item)
    for path, item in targets.items():
        tree.commit(path, item)
    for folder in {str(PurePosixPath(path).parent) for path in targets}:
        tree.sync(folder)
    for path, item in targets.items():
        if not _is_at(tree, path, item):
            raise OSError(f"{path} was written, but reads back differently")


def _is_at(tree: RootTree, path: str, item: Item) -> bool:
    found = tree.read(path)
    return not isinstance(found, Obstacle) and is_same(found, item)


def _missing(tree: RootTree, paths: Sequence[str]) -> list[str]:
    """Return the missing folders above ``paths``, parents first."""
    folders: dict[str, None] = {}
    for path in paths:
        existing = tree.deepest_existing(path)
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if len(str(parent)) > len(existing):
                folders[str(parent)] = None
    return list(folders)


def _check_free(tree: RootTree, path: str, item: Item) -> None:
    if tree.read(path) is not None and not _is_at(tree, path, item):
        raise SystemFilesError(
            f"{tree.root / path} exists, but is needed as a backup of the previous file: move it away",
            code="system_files.backup_exists",
        )


@contextmanager
def _mapped_errors(root: Path, outcome: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise SystemFilesError(
            f"the journal in {root / STATE} is malformed: {describe_problems(error)}",
            code="system_files.journal_malformed",
        ) from error
    except OSError as error:
        path = f" ({error.filename})" if error.filename else ""
        hint = ": run this as root" if isinstance(error, PermissionError) else ""
        raise SystemFilesError(
            f"{root}: {outcome}: {error.strerror or error}{path}{hint}", code="system_files.io"
        ) from error
