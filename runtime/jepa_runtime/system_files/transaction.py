"""Makes a root what a plan says, or what it was before: all of it, or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.change_plan import TO_DO, Action, FileChange, plan
from jepa_runtime.system_files.entries import Entry, File, Item, Journal, Obstacle, same
from jepa_runtime.system_files.journal_store import STATE, JournalStore
from jepa_runtime.system_files.root_tree import RootTree
from jepa_runtime.system_files.shipped import Shipped
from jepa_runtime.util.strict_json import describe

# What lay at a path before ours, where `undo` leaves what a person made of ours.
BESIDE = ".before-jepa-edge"


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What :func:`undo` did, as paths.

    Attributes:
        restored: lie there again as they were.
        removed: were not there before.
        kept: were changed since they were installed, and stay as they are.
    """

    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def look(root: Path, files: Sequence[Shipped]) -> list[FileChange]:
    """What :func:`apply` would do.

    Raises:
        SystemFilesError: the root cannot be read.
    """
    with _told(root, "cannot be read"), RootTree(root) as tree:
        return _plan(tree, files, JournalStore(tree).load())


def apply(root: Path, files: Sequence[Shipped], *, keep_changed: bool = False) -> list[FileChange]:
    """Install ``files`` below ``root``, or none of them.

    Args:
        keep_changed: leave files that somebody changed since they were installed as they are.

    Returns:
        What was planned; what was new or changed is done.

    Raises:
        SystemFilesError: something is in the way, was changed, or failed; the root is as before.
    """
    with _told(root, "nothing was installed"), RootTree(root) as tree, tree.locked():
        store = JournalStore(tree)
        store.clean()
        before = store.load()
        changes = _plan(tree, files, before)
        _refuse(root, changes, keep_changed)
        to_do = [change for change in changes if change.action in TO_DO]
        if to_do:
            _install(tree, store, before, to_do)
        return changes


def undo(root: Path, *, keep_changed: bool = False) -> Undone:
    """Make ``root`` what it was before the first :func:`apply`.

    Args:
        keep_changed: leave files that somebody changed since they were installed as they are; what lay there
            before is put beside them.

    Raises:
        SystemFilesError: a file was changed since, or something failed. Calling it again goes on.
    """
    what = "not everything was taken back: mend this and call undo again"
    with _told(root, what), RootTree(root) as tree, tree.locked():
        store = JournalStore(tree)
        store.clean()
        journal = store.load()
        return Undone() if journal is None else _take_back(tree, store, journal, keep_changed)


def _plan(tree: RootTree, files: Sequence[Shipped], journal: Journal | None) -> list[FileChange]:
    found = {file.path: tree.read(file.path) for file in files}
    for file in files:
        claimed = journal is not None and file.path in journal.entries
        if not claimed and tree.is_staged(file.path):
            found[file.path] = Obstacle(
                "has a file beside it under the name that is needed for installing it"
            )
    return plan(files, found, journal)


def _refuse(root: Path, changes: Sequence[FileChange], keep_changed: bool) -> None:
    refused = [change for change in changes if change.action is Action.BLOCKED]
    if not keep_changed:
        refused += [change for change in changes if change.action is Action.CONFLICT]
    if refused:
        told = "; ".join(f"{root / change.file.path} {change.why}" for change in refused)
        is_blocked = refused[0].action is Action.BLOCKED
        hint = ": move it away" if is_blocked else ": put it back, or leave it with --keep-changed"
        raise SystemFilesError(f"{told}{hint}; nothing was installed")


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
    times = {folder: tree.time(folder) for folder in {tree.standing(path) for path in (*wanted, STATE)}}
    journal = _claimed(before or Journal(), to_do, wanted, folders, times)
    try:
        store.save(journal)
        for folder in folders:
            tree.make_folder(folder)
        _settle(tree, wanted)
    except BaseException as error:
        try:
            found = {change.file.path: change.found for change in to_do}
            _bring_back(tree, store, found, folders, times, before, journal)
        except OSError as second:
            raise SystemFilesError(
                f"{tree.root}: installing failed ({error}), and so did going back ({second}): "
                "mend this and run `jepa-runtime configs undo`, or apply again"
            ) from error
        raise


def _claimed(
    journal: Journal,
    to_do: Sequence[FileChange],
    wanted: Mapping[str, File],
    folders: Sequence[str],
    times: Mapping[str, int],
) -> Journal:
    """The journal with what is about to be done; what it says of before stays."""
    entries = dict(journal.entries)
    for change in to_do:
        path = change.file.path
        entry = entries.get(path) or Entry(before=change.found, ours=())
        ours = tuple(dict.fromkeys((*entry.ours, wanted[path].fingerprint)))
        entries[path] = Entry(before=entry.before, ours=ours)
    made = tuple(dict.fromkeys((*journal.made, *folders)))
    kept = {folder: time for folder, time in times.items() if folder not in journal.made}
    return Journal(entries=entries, made=made, times=kept | journal.times)


def _take_back(tree: RootTree, store: JournalStore, journal: Journal, keep_changed: bool) -> Undone:
    found = {path: tree.read(path) for path in journal.entries}
    changed = [
        path
        for path, entry in journal.entries.items()
        if isinstance(there := found[path], Obstacle) or entry.is_changed(there)
    ]
    if changed and not keep_changed:
        told = ", ".join(str(tree.root / path) for path in changed)
        raise SystemFilesError(
            f"{told}: changed since it was installed: put back what was installed, or leave it as it is "
            "with --keep-changed; nothing was taken back"
        )
    targets = {path: entry.before for path, entry in journal.entries.items() if path not in changed}
    for path in changed:
        beside = f"{path}{BESIDE}"
        before = journal.entries[path].before
        if before is not None:
            _check_free(tree, beside, before)
            targets[beside] = before
    _bring_back(tree, store, targets, journal.made, journal.times, None, journal)
    return Undone(
        restored=tuple(path for path, item in targets.items() if item is not None),
        removed=tuple(path for path, item in targets.items() if item is None and found[path] is not None),
        kept=tuple(changed),
    )


def _bring_back(
    tree: RootTree,
    store: JournalStore,
    targets: Mapping[str, Item],
    folders: Sequence[str],
    times: Mapping[str, int],
    before: Journal | None,
    journal: Journal,
) -> None:
    """Let ``targets`` lie at their paths and ``folders`` be gone, and the journal be what it was before."""
    for path in (*targets, *journal.entries):
        tree.unstage(path)
    _settle(tree, {path: item for path, item in targets.items() if not _lies(tree, path, item)})
    for folder in sorted(folders, reverse=True):
        tree.remove_folder(folder)
    _set_times(tree, times)
    if before is None:
        store.remove(journal)
        # Removing the journal changed the time of its folder.
        _set_times(tree, times)
    elif store.load() != before:
        store.save(before)


def _set_times(tree: RootTree, times: Mapping[str, int]) -> None:
    for folder, time in times.items():
        tree.set_time(folder, time)


def _settle(tree: RootTree, targets: Mapping[str, Item]) -> None:
    """Let ``targets`` lie at their paths: all written before the first is put into place, then read again."""
    for path, item in targets.items():
        tree.stage(path, item)
    for path, item in targets.items():
        tree.commit(path, item)
    for folder in {str(PurePosixPath(path).parent) for path in targets}:
        tree.sync(folder)
    for path, item in targets.items():
        if not _lies(tree, path, item):
            raise OSError(f"{path}: what was written there is not what is read")


def _lies(tree: RootTree, path: str, item: Item) -> bool:
    found = tree.read(path)
    return not isinstance(found, Obstacle) and same(found, item)


def _missing(tree: RootTree, paths: Sequence[str]) -> list[str]:
    """The folders above ``paths`` that are not there, each after the one that it is in."""
    folders: dict[str, None] = {}
    for path in paths:
        standing = tree.standing(path)
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if len(str(parent)) > len(standing):
                folders[str(parent)] = None
    return list(folders)


def _check_free(tree: RootTree, path: str, item: Item) -> None:
    if tree.read(path) is not None and not _lies(tree, path, item):
        raise SystemFilesError(f"{tree.root / path}: is in the way of what is to be kept there: move it away")


@contextmanager
def _told(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise SystemFilesError(f"{root / STATE}: the journal is damaged: {describe(error)}") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = ": run this as root" if isinstance(error, PermissionError) else ""
        raise SystemFilesError(f"{root}: {what}: {error.strerror or error}{where}{hint}") from error
