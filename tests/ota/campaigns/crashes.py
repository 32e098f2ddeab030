"""Kill the process, fill the disk or fail it at each system call of an update that changes the disk."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jepa_runtime.errors import JepaRuntimeError
from tests.ota.campaigns import tracing
from tests.ota.campaigns.scene import MEMORY, Broken, Stage, Story, remove
from tests.ota.campaigns.tracing import Call, Ended

# A full disk refuses these calls; lookups and removals still work.
_TAKES_ROOM = frozenset(
    {"write", "writev", "pwrite64", "sendfile", "copy_file_range", "fallocate", "fsync", "mkdir", "mkdirat",
     "symlink", "symlinkat", "rename", "renameat", "renameat2", "link", "linkat"}
)  # fmt: skip
# A failing disk refuses all changes; opening is omitted because files are also opened for reading.
_CHANGES = frozenset(tracing.CALLS) - {"open", "openat", "openat2", "creat"}


@dataclass(frozen=True)
class Fault:
    """Define what happens at a call, and whether it persists for all later calls."""

    name: str
    inject: str
    then: frozenset[str] = frozenset()

    def options(self, at: Call, before: Counter[str]) -> list[str]:
        """Return the options of strace for this number of earlier calls of each name."""
        options = ["-e", f"inject={at.name}:{self.inject}:when={at.number}"]
        for name in sorted(self.then & set(before)):
            first = at.number if name == at.name else before[name] + 1
            options += ["-e", f"inject={name}:{self.inject}:when={first}+"]
        return options


KILL = Fault("SIGKILL", "signal=SIGKILL")
FAULTS = (
    KILL,
    Fault("ENOSPC once", "error=ENOSPC"),
    Fault("ENOSPC for ever", "error=ENOSPC", _TAKES_ROOM),
    Fault("EIO once", "error=EIO"),
    Fault("EIO for ever", "error=EIO", _CHANGES),
)


@dataclass
class Report:
    """Contain the results of a campaign.

    Attributes:
        points: Number of system calls that change the disk, where the fault is injected.
        hit: Number of points where the fault occurred.
        outcomes: Number of times that the process ended in each way under the fault.
        findings: Violated invariants, with their points.
    """

    story: str
    fault: str
    points: int = 0
    hit: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def points(stage: Stage, story: Story, root: Path, log: Path) -> list[tuple[Call, Counter[str]]]:
    """Return each system call of a story that changes the robot's folder, with the earlier calls by name."""
    stage.put(story, root)
    done = tracing.run(lambda _: stage.play(story, root), root, log, [])
    remove(root)
    if done.status:
        raise Broken(f"{story.name}: it failed without a fault")
    result, before = [], Counter(dict.fromkeys(done.names, 0))
    for call, name in zip(done.calls, done.names, strict=True):
        if call is not None:
            result.append((call, before.copy()))
        before[name] += 1
    return result


def campaign(stage: Stage, story: Story, fault: Fault, *, every: int = 1, first: int = 0) -> Report:
    """Inject a fault into a story at every ``every``-th of its points, from ``first`` on."""
    began, report = time.monotonic(), Report(story.name, fault.name)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        _meet(stage, story, fault, Path(folder), report, every, first)
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _meet(
    stage: Stage, story: Story, fault: Fault, home: Path, report: Report, every: int, first: int
) -> None:
    root, log, outcomes = home / "robot", home / "strace.log", Counter[str]()
    for at, before in points(stage, story, root, log)[first::every]:
        report.points += 1
        stage.put(story, root)
        try:
            ended = tracing.run(
                lambda send: _act(stage, story, root, send), root, log, fault.options(at, before)
            )
            report.hit += at in ended.calls
            outcomes[_outcome(ended, fault)] += 1
            stage.check(story, root)
            stage.end(story, root)
        except (Broken, TimeoutError) as error:
            report.findings.append(f"{at}: {error}")
        remove(root)
    report.outcomes = dict(outcomes.most_common())


def _act(stage: Stage, story: Story, root: Path, send: tracing.Say) -> None:
    try:
        state = stage.play(story, root)
        send(f"{state.result}".encode())
    except JepaRuntimeError as error:
        send(type(error).__name__.encode())
    except BaseException as error:
        *_, (place, line) = traceback.walk_tb(error.__traceback__)
        send(f"!{error!r} at {place.f_code.co_filename}:{line}".encode())


def _outcome(ended: Ended, fault: Fault) -> str:
    """Return the outcome in one word.

    Raises:
        Broken: The process ended in an unexpected way.
    """
    message = ended.messages[-1].decode() if ended.messages else ""
    if message.startswith("!"):
        raise Broken(f"an error that is none of ours: {message[1:]}")
    if os.WIFSIGNALED(ended.status) and os.WTERMSIG(ended.status) == signal.SIGKILL and fault == KILL:
        return "killed"
    if ended.status or not message:
        raise Broken(f"it ended with status {ended.status}")
    return message


def shown(reports: Sequence[Report]) -> str:
    """Return a table and every finding."""
    lines = [f"{'story':<12}{'fault':<31}{'points':>7}{'hit':>6}{'findings':>10}{'s':>8}  ended"]
    for report in reports:
        ended = ", ".join(f"{name} {count}" for name, count in report.outcomes.items())
        lines.append(
            f"{report.story:<12}{report.fault:<31}{report.points:>7}{report.hit:>6}"
            f"{len(report.findings):>10}{report.seconds:>8.0f}  {ended}"
        )
        lines += [f"  {finding}" for finding in report.findings]
    return "\n".join(lines)
