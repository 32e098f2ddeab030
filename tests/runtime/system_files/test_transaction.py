"""Installation is atomic, and undo restores the previous state."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files import transaction
from jepa_runtime.system_files.change_plan import Action
from jepa_runtime.system_files.entries import Item, Journal
from jepa_runtime.system_files.journal_store import STATE, JournalStore
from jepa_runtime.system_files.root_tree import RootTree
from jepa_runtime.system_files.transaction import BACKUP_SUFFIX, apply, preview, undo
from tests.errors import code
from tests.runtime.system_files.roots import FILES, MEMORY, file, fill, snapshot

NEWER = [file(FILES[0].path, "net.core.rmem_max = 2\n"), *FILES[1:]]


def test_apply_installs_shipped_content_and_modes(root: Path) -> None:
    changes = apply(root, FILES)
    assert [change.action for change in changes] == [Action.CHANGED, Action.CHANGED, Action.NEW]
    for shipped in FILES:
        path = root / shipped.path
        assert path.read_bytes() == shipped.content and not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if "tool" in shipped.path else 0o644)
    assert {change.action for change in preview(root, FILES)} == {Action.SAME}


def test_journal_is_readable_by_its_owner_only(root: Path) -> None:
    apply(root, FILES)
    assert stat.S_IMODE((root / STATE).stat().st_mode) == 0o700
    assert stat.S_IMODE((root / STATE / "journal.json").stat().st_mode) == 0o600


def test_undo_restores_the_root(root: Path) -> None:
    before = snapshot(root)
    apply(root, FILES)
    undone = undo(root)
    assert snapshot(root) == before
    assert (set(undone.restored), undone.removed) == ({FILES[0].path, FILES[1].path}, (FILES[2].path,))
    assert undo(root) == transaction.Undone()


def test_undo_after_several_versions_restores_the_first_state(root: Path) -> None:
    before = snapshot(root)
    apply(root, FILES[:2])
    apply(root, NEWER)
    assert (root / FILES[0].path).read_bytes() == NEWER[0].content
    undo(root)
    assert snapshot(root) == before


def test_undo_restores_extended_attributes(root: Path) -> None:
    try:
        os.setxattr(root / FILES[0].path, "user.owner", b"me\xff")
    except OSError as error:
        pytest.skip(f"this file system keeps none: {error}")
    before = snapshot(root)
    apply(root, FILES)
    assert os.listxattr(root / FILES[0].path) == []
    undo(root)
    assert snapshot(root) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_undo_restores_owners_and_not_those_of_link_targets(root: Path) -> None:
    theirs, link = (root / shipped.path for shipped in FILES[:2])
    os.chown(theirs, 1, 2)
    link.unlink()
    link.symlink_to(theirs)
    os.chown(link, 3, 4, follow_symlinks=False)
    before = snapshot(root)
    apply(root, FILES)
    assert (theirs.stat().st_uid, link.stat().st_uid) == (0, 0)
    undo(root)
    assert snapshot(root) == before


def test_modified_file_is_neither_replaced_nor_removed(root: Path) -> None:
    apply(root, FILES)
    (root / FILES[0].path).write_text("mine\n")
    for act in (lambda: apply(root, NEWER), lambda: undo(root)):
        before = snapshot(root)
        with pytest.raises(SystemFilesError, check=code("system_files.file_modified")):
            act()
        assert snapshot(root) == before


def test_undo_keep_changed_keeps_both_versions(root: Path) -> None:
    original = (root / FILES[0].path).read_bytes()
    apply(root, FILES)
    (root / FILES[0].path).write_text("mine\n")
    apply(root, NEWER, keep_changed=True)
    assert (root / FILES[0].path).read_text() == "mine\n"
    assert undo(root, keep_changed=True).kept == (FILES[0].path,)
    assert (root / FILES[0].path).read_text() == "mine\n"
    assert (root / f"{FILES[0].path}{BACKUP_SUFFIX}").read_bytes() == original
    assert not (root / STATE).exists() and not (root / FILES[2].path).exists()


def test_undo_keep_changed_never_replaces_an_existing_backup(root: Path) -> None:
    original = (root / FILES[0].path).read_bytes()
    apply(root, FILES)
    (root / FILES[0].path).write_text("mine\n")
    backup = root / f"{FILES[0].path}{BACKUP_SUFFIX}"
    backup.write_text("mine too\n")
    before = snapshot(root)
    with pytest.raises(SystemFilesError, check=code("system_files.backup_exists")):
        undo(root, keep_changed=True)
    assert snapshot(root) == before
    backup.unlink()
    undo(root, keep_changed=True)
    assert backup.read_bytes() == original


def test_undo_keeps_created_folders_with_other_files(root: Path) -> None:
    apply(root, FILES)
    (root / "usr/local/lib/theirs").write_text("")
    undo(root)
    assert os.listdir(root / "usr/local/lib") == ["theirs"] and not (root / "var").exists()


def test_apply_creates_missing_folders_of_the_same_name(root: Path) -> None:
    (root / "lib").mkdir()
    before = snapshot(root)
    apply(root, FILES)
    assert (root / "usr/local/lib/jepa-edge/tool").exists() and os.listdir(root / "lib") == []
    undo(root)
    assert snapshot(root) == before


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def hard_link(path: Path) -> None:
    path.unlink()
    path.write_text("")
    path.with_name("other").hardlink_to(path)


def linked_folder(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "put",
    [
        folder,
        lambda path: (path.unlink(), os.mkfifo(path)),
        hard_link,
        lambda path: path.write_bytes(bytes((1 << 20) + 1)),
        linked_folder,
        lambda path: path.with_name(f".{path.name}.jepa-configs").write_text("theirs"),
    ],
    ids=["folder", "pipe", "hard link", "too large", "link on the way", "name that is needed"],
)
def test_apply_with_a_blocked_path_names_it_and_installs_nothing(
    root: Path, put: Callable[[Path], object]
) -> None:
    put(root / FILES[0].path)
    before = snapshot(root)
    with pytest.raises(SystemFilesError, check=code("system_files.path_blocked")) as raised:
        apply(root, FILES)
    assert "60-jepa.conf " in str(raised.value)
    assert snapshot(root) == before


def test_journal_writable_by_others_is_rejected(root: Path) -> None:
    apply(root, FILES)
    (root / STATE).chmod(0o777)
    with pytest.raises(SystemFilesError, check=code("system_files.journal_untrusted")):
        undo(root)


def test_malformed_journal_is_an_error(root: Path) -> None:
    apply(root, FILES)
    (root / STATE / "journal.json").write_text('{"entries": 1}')
    with pytest.raises(SystemFilesError, check=code("system_files.journal_malformed")):
        undo(root)


def test_concurrent_transaction_is_rejected(root: Path) -> None:
    with RootTree(root) as tree, tree.locked():
        waiting = multiprocessing.get_context("spawn").Process(target=apply, args=(root, FILES))
        waiting.start()
        waiting.join(60)
        assert waiting.exitcode == 1
        with pytest.raises(SystemFilesError, check=code("system_files.locked")):
            undo(root)
    apply(root, FILES)


# What is unreadable to all but root, others cannot compare.
_READABLE = 0 if os.geteuid() == 0 else 0o400
ITEMS = st.one_of(
    st.none(),
    st.tuples(
        st.just("file"), st.binary(max_size=40), st.integers(0, 0o7777).map(lambda mode: mode | _READABLE)
    ),
    st.tuples(st.just("link"), st.sampled_from(["/dev/null", "nowhere", "../../outside"]), st.just(0)),
    st.tuples(st.just("folder"), st.just(b""), st.integers(0o700, 0o777)),
)
PATHS = (*(shipped.path for shipped in FILES), "etc/sysctl.d/theirs.conf", "var/lib", "usr/local", STATE)


@given(st.fixed_dictionaries(dict.fromkeys(PATHS, ITEMS)), st.integers(0, 2**60), st.booleans())
@settings(max_examples=150)
def test_any_root_is_unchanged_after_undo_or_rejection(
    items: dict[str, tuple[str, Any, int] | None], time_ns: int, twice: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root = Path(folder)
        for path, item in items.items():
            with suppress(OSError):
                _put(root / path, item)
        for path in [root, *root.rglob("*")]:
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
        before = snapshot(root)
        with suppress(SystemFilesError):
            apply(root, FILES)
            if twice:
                apply(root, NEWER)
            undo(root)
        assert snapshot(root) == before


def _put(path: Path, item: tuple[str, Any, int] | None) -> None:
    if item is None:
        return
    kind, content, mode = item
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(content)
    elif kind == "folder":
        path.mkdir()
        path.chmod(mode)
    else:
        path.write_bytes(content)
        path.chmod(mode)


CHANGES = (
    "open",
    "mkdir",
    "rename",
    "unlink",
    "rmdir",
    "symlink",
    "fsync",
    "fchown",
    "fchmod",
    "chmod",
    "chown",
    "utime",
)


@contextmanager
def failing_at(monkeypatch: pytest.MonkeyPatch, number: int, error: int) -> Iterator[list[str]]:
    """Let the ``number``-th change of the disk fail; yield the calls."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **more)
            calls.append(name)
            if len(calls) == number:
                raise OSError(error, os.strerror(error))
            return real(*args, **more)

        return call

    with monkeypatch.context() as patched:
        for name in CHANGES:
            patched.setattr(os, name, counted(name, getattr(os, name)))
        yield calls


def stored_journal(root: Path) -> Journal | None:
    with RootTree(root) as tree:
        return JournalStore(tree).load()


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES], ids=errno.errorcode.get
)
@pytest.mark.parametrize("installed", [False, True], ids=["first", "again"])
def test_disk_error_at_any_change_leaves_the_root_unchanged(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: int, installed: bool
) -> None:
    number, calls = 0, ["any"]
    while number <= len(calls):
        number += 1
        root = root.with_name(str(number))
        fill(root)
        if installed:
            apply(root, FILES[:2])
        before, known = snapshot(root, without_times=[STATE]), stored_journal(root)
        with failing_at(monkeypatch, number, error) as calls, suppress(SystemFilesError):
            apply(root, NEWER)
        if number <= len(calls):
            after = snapshot(root, without_times=[STATE])
            journal = f"{STATE}/journal.json"
            assert {path: seen for path, seen in after.items() if not path.startswith(journal)} == {
                path: seen for path, seen in before.items() if path != journal
            }, calls[number - 1]
            assert stored_journal(root) == known
    assert number > 30
    assert (root / FILES[0].path).read_bytes() == NEWER[0].content


Unsynced = Callable[[Path], set[Path]]


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> Unsynced:
    """Record the folders of a root whose entries changed without fsync. Fail if a name is given to unsynced
    content."""
    written: dict[int, bytes] = {}
    changed: set[int] = set()

    def fsync(fd: int, real: Callable[[int], None] = os.fsync) -> None:
        real(fd)
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            changed.discard(status.st_ino)
        else:
            written[status.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def rename(
        source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, real: Callable[..., None] = os.rename
    ) -> None:
        path = Path(f"/proc/self/fd/{src_dir_fd}", source)
        if path.is_file() and not path.is_symlink():
            assert written[path.stat().st_ino] == path.read_bytes(), source
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        changed.add(os.fstat(dst_dir_fd).st_ino)

    def changing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
            created = real(path, *args, dir_fd=dir_fd, **more)
            if real.__name__ != "open" or args[0] & os.O_CREAT:
                changed.add(os.stat(os.path.dirname(path) if dir_fd is None else dir_fd).st_ino)
            return created

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    for name in ("open", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, changing(getattr(os, name)))
    return lambda root: {path for path in (root, *root.rglob("*")) if path.lstat().st_ino in changed}


def test_power_cut_never_leaves_a_change_without_its_journal(
    root: Path, unsynced: Unsynced, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RootTree(root) as tree:
        for folder in ("var", "var/lib"):
            tree.make_folder(folder)
    commit, remove = RootTree.commit, JournalStore.remove

    def after_its_journal(tree: RootTree, path: str, item: Item) -> None:
        assert not unsynced(root) & {root / STATE, *(root / STATE).parents}
        commit(tree, path, item)

    def after_its_content(store: JournalStore, journal: Journal) -> None:
        assert not unsynced(root)
        remove(store, journal)

    monkeypatch.setattr(RootTree, "commit", after_its_journal)
    monkeypatch.setattr(JournalStore, "remove", after_its_content)
    for act in (lambda: apply(root, FILES), lambda: apply(root, NEWER), lambda: undo(root)):
        act()
        assert not unsynced(root)
