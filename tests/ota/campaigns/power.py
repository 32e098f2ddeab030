"""Real power cuts: the disk retains what was written to it, and nothing that was only in memory.

The robot is on an ext4 file system in a file that acts as a disk (a loop device). The update is killed at one
of its system calls; at that moment the file is copied as it is, without any synchronization, and the copy is
mounted, which replays the journal as the next start would. Everything that the process had confirmed by then
must exist: the states that it reported, the slots that these need, the links.

The file is in memory (/dev/shm), so the copy is fast; a copy during which something was written is repeated.
Losses of a disk with a volatile cache are not covered: fsync flushes that cache.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.ota import robot, state
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from tests.ota.campaigns import crashes, tracing
from tests.ota.campaigns.crashes import KILL, Report
from tests.ota.campaigns.scene import MEMORY, Broken, Stage, Story

_IMAGE_BYTES = 48 << 20
_COPIES = 20
_SYNCHRONIZE = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
while True:
    os.pwrite(fd, os.urandom(4096), 0)
    os.fsync(fd)
    time.sleep(0.002)
"""
# When a state with one of these phases was reported, its step may have moved the links already.
_MOVES_CURRENT = (Phase.SWITCH, Phase.ROLLBACK)
_MOVES_GOOD = (Phase.SWITCH, Phase.COMMIT, Phase.ROLLBACK)
_HAS_SLOT = (
    Phase.PROBE, Phase.SHADOW, Phase.ARMED, Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT,
)  # fmt: skip


@dataclass(frozen=True)
class Mode:
    """Define the mount options of the file system, and whether another process calls fsync on it, which
    also writes much of the data of others."""

    name: str
    options: str
    neighbor: bool


MODES = (
    Mode("default", "rw", False),
    # Nothing reaches the disk by periodic writeback, or by heuristics of the file system.
    Mode("noauto_da_alloc, commit=600", "noauto_da_alloc,commit=600", False),
    Mode("the same, a neighbor fsyncing", "noauto_da_alloc,commit=600", True),
)


def missing() -> str:
    """Return the reason why power cuts are impossible here, or an empty string."""
    if reason := tracing.missing():
        return reason
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if MEMORY is None:
        return "there is no file system in memory (/dev/shm)"
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        image, where = Path(folder, "image"), Path(folder, "mounted")
        try:
            _make(image)
            with _mounted(image, where, "rw"):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            reported = getattr(error, "stderr", b"") or str(error).encode()
            return f"no file can be mounted as a disk here: {reported.decode(errors='replace').strip()}"


class Disks:
    """Manage robots on disks that are files.

    Args:
        home: A folder in memory.
    """

    def __init__(self, stage: Stage, home: Path) -> None:
        self._stage = stage
        self._home, self._where = home, home / "mounted"
        self._log = home / "strace.log"
        self.root = self._where / "robot"
        self._before: State | None = None

    def prepare(self, story: Story) -> None:
        """A disk with a robot in its state before a story."""
        _make(self._home / "begin")
        with _mounted(self._home / "begin", self._where, "rw"):
            self._stage.put(story, self.root)
            self._before = state.load(self.root / robot.STATE)

    def cut(self, story: Story, mode: Mode, options: Sequence[str]) -> tuple[list[State], tracing.Ended]:
        """Play a story until the ``options`` of strace end it, and cut the power there.

        Returns:
            The states that were reported until then.
        """
        work, left = self._home / "work", self._home / "left"
        _copy(self._home / "begin", work)
        with _mounted(work, self._where, mode.options), _neighbor(self._where, mode.neighbor) as halt:
            ended = tracing.run(
                lambda send: self._stage.play(
                    story, self.root, on_state=lambda state: send(pickle.dumps(state))
                ),
                self.root,
                self._log,
                options,
            )
            halt()
            for _ in range(_COPIES):
                then = work.stat().st_mtime_ns
                _copy(work, left)
                if work.stat().st_mtime_ns == then:
                    break
            else:
                raise Broken("the disk never rested")
        return [pickle.loads(message) for message in ended.messages], ended

    def points(self, story: Story, mode: Mode) -> list[tuple[tracing.Call, list[str]]]:
        """Return the system calls at which the power can be cut, with the options of strace for them."""
        _copy(self._home / "begin", self._home / "work")
        with _mounted(self._home / "work", self._where, mode.options):
            done = tracing.run(lambda _: self._stage.play(story, self.root), self.root, self._log, [])
        return [(call, KILL.options(call, crashes.Counter())) for call in done.calls if call is not None]

    def check(self, story: Story, reported: Sequence[State]) -> None:
        """Restart from the disk after the cut: everything confirmed exists, and the story finishes.

        Raises:
            Broken: It does not.
        """
        with _mounted(self._home / "left", self._where, "rw"):
            self._stage.check(story, self.root)
            self._claims(reported)
            self._stage.end(story, self.root)

    def _claims(self, reported: Sequence[State]) -> None:
        assert self._before is not None
        *older, last = [self._before, *reported]
        store, stored = SlotStore(self.root), state.load(self.root / robot.STATE)
        if stored in older:
            raise Broken(f"the state is that of {stored.phase}, {last.phase} had been reported")
        for role, version in last.versions.items():
            if stored.versions.get(role, 0) < version:
                raise Broken(
                    f"version {version} of {role} had been seen, {stored.versions.get(role)} is stored"
                )
        if last.phase in _HAS_SLOT and last.candidate:
            sha256 = last.candidate.release.manifest_sha256
            if not store.complete(sha256):
                raise Broken(f"in {last.phase} the slot of the candidate is not complete")
        for name, slot, installed, moves in (
            ("current", store.current(), last.current, _MOVES_CURRENT),
            ("good", store.good(), last.good, _MOVES_GOOD),
        ):
            if last.phase not in moves and (installed is None or slot != installed.manifest_sha256):
                raise Broken(f"in {last.phase} {name} leads to {slot}, the reported state is {installed}")


def campaign(
    stage: Stage, story: Story, mode: Mode, *, every: int = 1, first: int = 0, limit: int | None = None
) -> Report:
    """Cut the power at every ``every``-th system call of a story that changes the disk, from ``first`` on."""
    began, report = time.monotonic(), Report(story.name, mode.name)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        disks = Disks(stage, Path(folder))
        disks.prepare(story)
        for at, options in disks.points(story, mode)[first::every][:limit]:
            report.points += 1
            try:
                reported, ended = disks.cut(story, mode, options)
                report.hit += at in ended.calls
                disks.check(story, reported)
            except (Broken, TimeoutError, JepaRuntimeError) as error:
                report.findings.append(f"{at}: {error}")
    report.outcomes = {"cut": report.hit}
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _make(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    # Everything is created in advance, so that no preparation runs during an update.
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))


def _copy(image: Path, to: Path) -> None:
    _run("cp", "--sparse=always", str(image), str(to))


@contextmanager
def _mounted(image: Path, where: Path, options: str) -> Iterator[None]:
    where.mkdir(exist_ok=True)
    _run("mount", "-t", "ext4", "-o", f"loop,{options}", str(image), str(where))
    try:
        yield
    finally:
        _run("umount", str(where))


@contextmanager
def _neighbor(where: Path, is_there: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that stops it."""
    if not is_there:
        yield lambda: None
        return
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _SYNCHRONIZE, str(where / "neighbor")])
    stat = Path(f"/proc/{process.pid}/stat")

    def halt() -> None:
        os.kill(process.pid, signal.SIGSTOP)
        while stat.read_text().rpartition(") ")[2][0] != "T":
            time.sleep(0.001)

    try:
        yield halt
    finally:
        process.kill()
        process.wait()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
