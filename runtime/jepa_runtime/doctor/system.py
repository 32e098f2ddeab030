"""A machine as the doctor sees it: files below a root, and what no file tells.

Nothing here writes, and nothing guesses: what cannot be read raises
:class:`UndeterminedError` with the reason.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from jepa_runtime.errors import UndeterminedError
from jepa_runtime.telemetry.sysfs import Files

# The longest text that is read: /var/lib/dpkg/status of a full desktop has less than 10 MB.
_LONGEST, _PIECE = 16 << 20, 1 << 20


@dataclass(frozen=True)
class Account:
    """Who would run the model. ``groups`` holds the names of all its groups."""

    name: str
    uid: int
    groups: frozenset[str]


@dataclass(frozen=True)
class Node:
    """Owner, group and permission bits of a device node.

    Attributes:
        granted: whether the system lets this process in: the bits do not tell of access control lists, which
            open a camera to who sits at the machine.
    """

    owner: str
    group: str
    mode: int
    granted: bool = False

    def __str__(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"

    def open_to(self, account: Account, bits: int = 6) -> bool:
        """Whether the account may read and write it (``bits`` 4: read it); the first class that fits decides,
        and no other."""
        if self.granted or account.uid == 0:
            return True
        shift = 6 if self.owner == account.name else 3 if self.group in account.groups else 0
        return self.mode >> shift & bits == bits


class Facts(Protocol):
    """What a git repository cannot hold. Each raises :class:`UndeterminedError` where it cannot be told."""

    def kernel(self) -> str:
        """The release, as ``uname -r``."""

    def architecture(self) -> str:
        """As ``uname -m``."""

    def account(self) -> Account:
        """Who would run the model."""

    def nodes(self, pattern: str) -> dict[str, Node]:
        """The device nodes whose path (``/dev/...``) matches the pattern of a shell."""

    def free_bytes(self, path: str) -> tuple[str, int]:
        """The nearest folder at or above ``path`` that exists, and what an account may still write there."""

    def clock_synchronized(self) -> bool:
        """Whether the kernel's clock follows a reference (adjtimex(2))."""

    def library_folders(self) -> Sequence[str]:
        """Where Python looks for packages; paths relative to the root."""

    def program(self, name: str) -> str:
        """Path of a program of the Python environment that is judged, for a shell."""

    def needs_root_to_install(self) -> bool:
        """Whether packages of that environment are root's."""


class System:
    """The files of a machine below ``root``, and its ``facts``. Paths are relative to the root."""

    def __init__(self, root: Path, facts: Facts) -> None:
        self.root = root
        self.facts = facts
        self._files = Files(root)
        self._texts: dict[str, str] = {}

    def text(self, path: str, *, may_be_empty: bool = False) -> str:
        """A file of text, without white space around it.

        Raises:
            UndeterminedError: it cannot be read, is empty, or holds something else.
        """
        if path not in self._texts:
            content = self._bytes(path).strip(b" \t\n\0")
            if not content and not may_be_empty:
                raise UndeterminedError(f"/{path} is empty")
            # Control characters would act on the terminal that shows them.
            if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", content):
                raise UndeterminedError(f"/{path} holds no text")
            try:
                self._texts[path] = content.decode()
            except UnicodeDecodeError:
                raise UndeterminedError(f"/{path} holds no text") from None
        return self._texts[path]

    def field(self, path: str, pattern: str, lacking: str) -> str:
        """What the group of ``pattern`` finds in a file of lines.

        Raises:
            UndeterminedError: it cannot be read, or has no such line; the message says that it ``lacking``.
        """
        if found := re.search(pattern, self.text(path), re.MULTILINE):
            return found[1]
        raise UndeterminedError(f"/{path} {lacking}")

    def strings(self, path: str) -> list[str]:
        """A property of the device tree: strings that end with NUL.

        Raises:
            UndeterminedError: it cannot be read, or holds something else.
        """
        try:
            found = [part.decode("ascii") for part in self._bytes(path).rstrip(b"\0\n").split(b"\0")]
        except UnicodeDecodeError:
            raise UndeterminedError(f"/{path} holds no text") from None
        if not all(part and part.isprintable() for part in found):
            raise UndeterminedError(f"/{path} holds no list of strings")
        return found

    def integer(self, path: str) -> int:
        """A file with one whole number of at most 18 digits.

        Raises:
            UndeterminedError: it cannot be read, or holds something else.
        """
        text = self.text(path)
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise UndeterminedError(f"/{path} holds no whole number but {text[:40]!r}")
        return int(text)

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder.

        Raises:
            UndeterminedError: that may not be looked at.
        """
        try:
            os.stat(self._inside(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UndeterminedError(f"/{path} cannot be looked at: {error.strerror}") from error
        return True

    def filled(self, pattern: str) -> list[str]:
        """Files that match and are not empty."""
        found = []
        for path in self.find(pattern):
            try:
                state = os.stat(self._inside(path))
            except (OSError, UndeterminedError):
                continue
            found += [path] if stat.S_ISREG(state.st_mode) and state.st_size else []
        return found

    def find(self, pattern: str) -> list[str]:
        """Paths that match, in the order of the numbers in them."""
        return self._files.find(pattern)

    def link_name(self, path: str) -> str | None:
        """The last name in what a symbolic link points to; None if there is no link."""
        try:
            return os.path.basename(os.readlink(self.root / path))
        except OSError:
            return None

    @cached_property
    def debian(self) -> dict[str, str]:
        """The installed Debian packages and their versions.

        Raises:
            UndeterminedError: this is no Debian, or its list cannot be read.
        """
        path = "var/lib/dpkg/status"
        found = {}
        for stanza in self.text(path).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
            if not {"Package", "Status"} <= fields.keys():
                raise UndeterminedError(f"/{path} is damaged: a paragraph names no package")
            if fields["Status"].endswith(" installed") and "Version" in fields:
                found[fields["Package"]] = fields["Version"]
        return found

    def package(self, name: str) -> str | None:
        """The version of an installed Python package, as its metadata have it; None if there is none.

        Raises:
            UndeterminedError: its metadata are damaged.
        """
        for folder in self.facts.library_folders():
            for file in ("dist-info/METADATA", "egg-info/PKG-INFO"):
                for path in self.find(f"{glob.escape(folder)}/{name}-*.{file}"):
                    return self.field(path, r"^Version: (\S+)$", "tells no version")
        return None

    def _inside(self, path: str) -> Path:
        """Where ``path`` leads. An absolute link in a recorded root would lead to a file of this machine."""
        place = Path(os.path.realpath(self.root / path))
        if not place.is_relative_to(os.path.realpath(self.root)):
            raise UndeterminedError(f"/{path} leads out of the root {self.root}")
        return place

    def _bytes(self, path: str) -> bytes:
        try:
            place = self._inside(path)
            if not stat.S_ISREG(os.stat(place).st_mode):
                raise UndeterminedError(f"/{path} is no file")
            # In pieces: the kernel refuses large reads of /proc/sys.
            with open(place, "rb", buffering=0) as file:
                content = b""
                while len(content) <= _LONGEST and (piece := file.read(_PIECE)):
                    content += piece
        except OSError as error:
            raise UndeterminedError(f"/{path} cannot be read: {error.strerror}") from error
        if len(content) > _LONGEST:
            raise UndeterminedError(f"/{path} is longer than {_LONGEST >> 20} MiB")
        return content
