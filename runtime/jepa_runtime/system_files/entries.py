"""Contents of paths that can be restored, and the journal of the state before the installation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

# Bytes as text that keeps ASCII readable, so that an operator can restore files from the journal by hand.
_Bytes = Annotated[
    bytes,
    BeforeValidator(lambda value: value.encode("latin-1") if isinstance(value, str) else value),
    PlainSerializer(lambda value: value.decode("latin-1")),
]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Data):
    """A regular file.

    Attributes:
        content: The bytes.
        mode: Permission bits.
        uid: The owner.
        gid: The group.
        mtime_ns: Modification time, or None for the time of writing.
        xattrs: Extended attributes.
    """

    content: _Bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int | None = None
    xattrs: dict[str, _Bytes] = {}

    @property
    def fingerprint(self) -> str:
        """Mode and SHA-256 of the content, which identify a file that was installed."""
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
    """Something at a path that can be neither replaced nor restored, with the reason."""

    reason: str


class Entry(_Data):
    """A path that was installed, or was about to be.

    Attributes:
        before: What existed at the path.
        ours: Fingerprints of all files that were ever installed there.
    """

    before: Item
    ours: tuple[str, ...]

    def is_ours(self, found: Item) -> bool:
        """Return whether ``found`` was installed by us."""
        return isinstance(found, File) and found.fingerprint in self.ours

    def is_changed(self, found: Item) -> bool:
        """Return whether ``found`` is neither what was installed nor what existed before."""
        return not self.is_ours(found) and not is_same(found, self.before)


class Journal(_Data):
    """The state of a root before the installation.

    Attributes:
        schema_version: Version of the file format.
        entries: The installed paths, relative to the root.
        made: The folders that were created.
        times: Modification times of the folders that existed, in ns.
    """

    schema_version: Literal[1] = 1
    entries: dict[str, Entry] = {}
    made: tuple[str, ...] = ()
    times: dict[str, int] = {}


def is_same(one: Item, other: Item) -> bool:
    """Return whether two items are equal except for their modification times."""
    if isinstance(one, File) and isinstance(other, File):
        return (one.fingerprint, one.uid, one.gid) == (other.fingerprint, other.uid, other.gid)
    if isinstance(one, Link) and isinstance(other, Link):
        return one.target == other.target
    return one is other
