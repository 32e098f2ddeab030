"""A kill or a disk fault at any system call, and real full and read-only file systems: the same command
finishes the installation, or undo reverts it.

The fast part takes a sample of the points; ``-m slow`` takes all.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.change_plan import Action
from jepa_runtime.system_files.entries import File, Item
from jepa_runtime.system_files.journal_store import STATE
from jepa_runtime.system_files.root_tree import RootTree
from jepa_runtime.system_files.transaction import apply, preview, undo
from tests.errors import code
from tests.ota.campaigns import crashes, tracing
from tests.ota.campaigns.crashes import FAULTS, KILL, Fault, Report
from tests.ota.campaigns.scene import Broken
from tests.runtime.system_files.roots import FILES, MEMORY, Snapshot, file, fill, snapshot

NEWER = [file(FILES[0].path, "net.core.rmem_max = 2\n"), *FILES[1:]]
# The folder of the journal.
_TIMELESS = ["var/lib"]


@dataclass(frozen=True)
class Story:
    """A command, and the command that finishes it after an interruption."""

    name: str
    ends_by: str

    @property
    def does(self) -> str:
        return self.name.split(",")[0]


STORIES = (
    Story("apply, again", "apply"),
    Story("apply, back", "undo"),
    Story("upgrade, again", "apply"),
    Story("upgrade, back", "undo"),
    Story("undo, again", "undo"),
)


class Stage:
    """Play stories for :func:`tests.ota.campaigns.crashes.campaign`."""

    def __init__(self) -> None:
        self.before: Snapshot = {}

    def put(self, story: Story, root: Path) -> None:
        fill(root)
        (root / "var/lib").mkdir(parents=True)
        self.before = snapshot(root, without_times=_TIMELESS)
        if story.does != "apply":
            apply(root, FILES if story.does == "undo" else FILES[:2])

    def play(self, story: Story, root: Path) -> SimpleNamespace:
        if story.does == "undo":
            undo(root)
        else:
            apply(root, NEWER)
        return SimpleNamespace(result="done")

    def check(self, story: Story, root: Path) -> None:
        """Each file is the old or the new one: none is truncated."""
        for change in preview(root, NEWER):
            if change.action is Action.CONFLICT or change.action is Action.BLOCKED:
                raise Broken(f"{change.file.path} {change.reason}")

    def end(self, story: Story, root: Path) -> None:
        if story.ends_by == "apply":
            apply(root, NEWER)
            if any(change.action is not Action.SAME for change in preview(root, NEWER)):
                raise Broken("the same command did not end it")
        undo(root)
        if snapshot(root, without_times=_TIMELESS) != self.before:
            raise Broken("undo left something")


@pytest.fixture(scope="module")
def can_trace() -> None:
    if reason := tracing.missing():
        pytest.skip(reason)


def holds(story: Story, fault: Fault, *, every: int = 1, first: int = 0) -> Report:
    report = crashes.campaign(Stage(), story, fault, every=every, first=first)  # type: ignore[arg-type]
    print(crashes.shown([report]))
    assert report.findings == [] and report.hit == report.points
    return report


@pytest.mark.usefixtures("can_trace")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_transaction_killed_at_sampled_calls_is_recovered(story: Story) -> None:
    assert holds(story, KILL, every=4, first=STORIES.index(story)).points >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("can_trace")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_transaction_fault_at_every_call_is_recovered(story: Story, fault: Fault) -> None:
    assert holds(story, fault).points >= 25


@pytest.mark.usefixtures("can_trace")
def test_campaign_detects_a_file_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    safely = RootTree.commit

    def commit(tree: RootTree, path: str, item: Item) -> None:
        if not isinstance(item, File):
            return safely(tree, path, item)
        tree.unstage(path)
        (tree.root / path).unlink(missing_ok=True)
        (tree.root / path).write_bytes(item.content)
        (tree.root / path).chmod(item.mode)

    monkeypatch.setattr(RootTree, "commit", commit)
    report = crashes.campaign(Stage(), STORIES[2], KILL)  # type: ignore[arg-type]
    assert any("60-jepa.conf was " in finding for finding in report.findings)


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """Mount a file system in memory with the content of :func:`fill`, with ``options``."""
    if shutil.which("mount") is None:
        pytest.skip("nothing can be mounted here: there is no mount")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            fill(Path(folder, "root"))
            yield Path(folder, "root")
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 5], ids="{} pages free".format)
def test_apply_on_a_full_disk_changes_nothing(room: int) -> None:
    with mounted("size=256k") as root:
        pages = 64 - 4 - room
        (root / "filler").write_bytes(bytes(4096 * pages))
        before = snapshot(root)
        try:
            apply(root, FILES)
        except SystemFilesError as error:
            assert error.code == "system_files.io" and "No space left on device" in str(error)
        else:
            undo(root)
        assert snapshot(root) == before


def test_full_disk_campaign_meets_a_full_disk() -> None:
    with mounted("size=64k") as root, pytest.raises(SystemFilesError, check=code("system_files.io")):
        (root / "filler").write_bytes(bytes(4096 * 14))
        apply(root, FILES)


def test_apply_and_undo_on_a_read_only_root_are_errors() -> None:
    with mounted("size=256k") as root:
        apply(root, FILES[:1])
        before = snapshot(root)
        subprocess.run(["mount", "-o", "remount,ro", str(root.parent)], check=True)
        with pytest.raises(SystemFilesError, check=code("system_files.io")):
            apply(root, NEWER)
        with pytest.raises(SystemFilesError, check=code("system_files.io")):
            undo(root)
        subprocess.run(["mount", "-o", "remount,rw", str(root.parent)], check=True)
        assert snapshot(root) == before
        undo(root)
        assert not (root / STATE).exists()
