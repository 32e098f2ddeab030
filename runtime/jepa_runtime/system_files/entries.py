"""What lies at a path, as far as it can be brought back, and the journal of what was there before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

# Bytes as text in which ASCII stays legible: who has lost everything else can still read the journal.
_Bytes = Annotated[
    bytes,
    BeforeValidator(lambda value: value.encode("latin-1") if isinstance(value, str) else value),
    PlainSerializer(lambda value: value.decode("latin-1")),
]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Data):
    """A regular file. ``mtime_ns`` None: when it is written; ``xattrs``: its extended attributes."""

    content: _Bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int | None = None
    xattrs: dict[str, _Bytes] = {}

    @property
    def fingerprint(self) -> str:
        """Of content and mode, by which one of ours is known again."""
        return f"{self.mode:04o} {hashlib.sha256(self.content).hexdigest()}"


class Link(_Data):
    """A symbolic link."""

    target: _Bytes
    uid: int
    gid: int
    mtime_ns: int


Item = File | Link | None


@dataclass(frozen=True)
class Obstacle:
    """What lies at a path and can neither be replaced nor brought back."""

    why: str


class Entry(_Data):
    """A path that was installed, or was about to be.

    Attributes:
        before: what was there.
        ours: fingerprints of all that was ever put there.
    """

    before: Item
    ours: tuple[str, ...]

    def is_ours(self, found: Item) -> bool:
        """Whether it is what was put there."""
        return isinstance(found, File) and found.fingerprint in self.ours

    def is_changed(self, found: Item) -> bool:
        """Whether somebody else put it there."""
        return not self.is_ours(found) and not same(found, self.before)


class Journal(_Data):
    """What brings a root back.

    Attributes:
        entries: by path below the root.
        made: folders that were not there.
        times: when the folders that were there had been changed last [ns].
    """

    schema_version: Literal[1] = 1
    entries: dict[str, Entry] = {}
    made: tuple[str, ...] = ()
    times: dict[str, int] = {}


def same(one: Item, other: Item) -> bool:
    """Whether they are alike, whenever they were written."""
    if isinstance(one, File) and isinstance(other, File):
        return (one.fingerprint, one.uid, one.gid) == (other.fingerprint, other.uid, other.gid)
    if isinstance(one, Link) and isinstance(other, Link):
        return one.target == other.target
    return one is other
