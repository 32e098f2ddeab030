"""Read-only access to a machine: files below a root, and facts that files do not contain.

Nothing here guesses: what cannot be read raises :class:`UndeterminedError` with the reason.
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
_MAX_BYTES, _CHUNK = 16 << 20, 1 << 20


@dataclass(frozen=True)
class Account:
    """The account that runs the model, with the names of all its groups."""

    name: str
    uid: int
    groups: frozenset[str]


@dataclass(frozen=True)
class Node:
    """Owner, group and permission bits of a device node.

    Attributes:
        owner: Name of the owner.
        group: Name of the group.
        mode: Permission bits.
        granted: Whether access(2) grants this process access. The mode alone does not show access control
            lists, which grant a camera to the user logged in at the machine.
    """

    owner: str
    group: str
    mode: int
    granted: bool = False

    def __str__(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"

    def permits(self, account: Account, bits: int = 6) -> bool:
        """Return whether the account may access the node.

        As in the kernel, only the first matching class of owner, group and others counts.

        Args:
            account: The account.
            bits: The access as in a file mode: 6 to read and write, 4 to read.
        """
        if self.granted or account.uid == 0:
            return True
        shift = 6 if self.owner == account.name else 3 if self.group in account.groups else 0
        return self.mode >> shift & bits == bits


class Facts(Protocol):
    """Facts that plain files do not contain.

    Each method raises :class:`UndeterminedError` if its fact cannot be determined.
    """

    def kernel(self) -> str:
        """Return the kernel release as ``uname -r`` prints it."""

    def architecture(self) -> str:
        """Return the architecture as ``uname -m`` prints it."""

    def account(self) -> Account:
        """Return the account that runs the model."""

    def nodes(self, pattern: str) -> dict[str, Node]:
        """Return the device nodes whose path (``/dev/...``) matches the shell pattern."""

    def free_bytes(self, path: str) -> tuple[str, int]:
        """Return the nearest existing folder at or above ``path``, and the bytes available there."""

    def clock_synchronized(self) -> bool:
        """Return whether the kernel's clock follows a reference (adjtimex(2))."""

    def library_folders(self) -> Sequence[str]:
        """Return the folders that Python searches for packages, relative to the root."""

    def program(self, name: str) -> str:
        """Return the path of a program in the examined Python environment, quoted for a shell."""

    def needs_root_to_install(self) -> bool:
        """Return whether installing packages into that environment requires root."""


class System:
    """The files of a machine below ``root``, and its ``facts``. All paths are relative to the root."""

    def __init__(self, root: Path, facts: Facts) -> None:
        self.root = root
        self.facts = facts
        self._files = Files(root)
        self._texts: dict[str, str] = {}

    def text(self, path: str, *, may_be_empty: bool = False) -> str:
        """Return the content of a text file, stripped of surrounding whitespace.

        Raises:
            UndeterminedError: The file cannot be read, is empty, or is not text.
        """
        if path not in self._texts:
            content = self._bytes(path).strip(b" \t\n\0")
            if not content and not may_be_empty:
                raise UndeterminedError(f"/{path} is empty", code="doctor.file_empty")
            # Control characters would act on the terminal that shows them.
            if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", content):
                raise UndeterminedError(f"/{path} is not a text file", code="doctor.not_text")
            try:
                self._texts[path] = content.decode()
            except UnicodeDecodeError:
                raise UndeterminedError(f"/{path} is not a text file", code="doctor.not_text") from None
        return self._texts[path]

    def field(self, path: str, pattern: str, name: str) -> str:
        """Return the first group of the first match of ``pattern`` in a text file.

        Args:
            path: The file.
            pattern: A regular expression with one group; ``^`` and ``$`` match at lines.
            name: The field, for the error message.

        Raises:
            UndeterminedError: The file cannot be read, or has no match.
        """
        if found := re.search(pattern, self.text(path), re.MULTILINE):
            return found[1]
        raise UndeterminedError(f"/{path} has no valid field {name!r}", code="doctor.field_missing")

    def strings(self, path: str) -> list[str]:
        """Return the NUL-terminated strings of a device tree property.

        Raises:
            UndeterminedError: The file cannot be read, or is not a list of strings.
        """
        try:
            found = [part.decode("ascii") for part in self._bytes(path).rstrip(b"\0\n").split(b"\0")]
        except UnicodeDecodeError:
            raise UndeterminedError(f"/{path} is not a text file", code="doctor.not_text") from None
        if not all(part and part.isprintable() for part in found):
            raise UndeterminedError(f"/{path} is not a list of strings", code="doctor.not_text")
        return found

    def integer(self, path: str) -> int:
        """Return the content of a file with one integer of at most 18 digits.

        Raises:
            UndeterminedError: The file cannot be read, or is not an integer.
        """
        text = self.text(path)
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise UndeterminedError(f"/{path} is not an integer: {text[:40]!r}", code="doctor.not_an_integer")
        return int(text)

    def exists(self, path: str) -> bool:
        """Return whether a file or folder exists.

        Raises:
            UndeterminedError: The path may not be accessed.
        """
        try:
            os.stat(self._inside(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UndeterminedError(
                f"cannot stat /{path}: {error.strerror}", code="doctor.unreadable"
            ) from error
        return True

    def find_nonempty(self, pattern: str) -> list[str]:
        """Return the regular files that match ``pattern`` and are not empty."""
        found = []
        for path in self.find(pattern):
            try:
                state = os.stat(self._inside(path))
            except (OSError, UndeterminedError):
                continue
            found += [path] if stat.S_ISREG(state.st_mode) and state.st_size else []
        return found

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern``, in natural order of the numbers in them."""
        return self._files.find(pattern)

    def link_name(self, path: str) -> str | None:
        """Return the last component of a symbolic link's target, or None if there is no link."""
        try:
            return os.path.basename(os.readlink(self.root / path))
        except OSError:
            return None

    @cached_property
    def debian(self) -> dict[str, str]:
        """The versions of the installed Debian packages.

        Raises:
            UndeterminedError: This is not a Debian system, or its package list cannot be read.
        """
        path = "var/lib/dpkg/status"
        found = {}
        for stanza in self.text(path).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
            if not {"Package", "Status"} <= fields.keys():
                raise UndeterminedError(
                    f"/{path} is malformed: a paragraph has no field Package or Status",
                    code="doctor.malformed",
                )
            if fields["Status"].endswith(" installed") and "Version" in fields:
                found[fields["Package"]] = fields["Version"]
        return found

    def package(self, name: str) -> str | None:
        """Return the version of an installed Python package, or None.

        Raises:
            UndeterminedError: The metadata of the package are malformed.
        """
        for folder in self.facts.library_folders():
            for file in ("dist-info/METADATA", "egg-info/PKG-INFO"):
                for path in self.find(f"{glob.escape(folder)}/{name.replace('-', '[-_]')}-*.{file}"):
                    return self.field(path, r"^Version: (\S+)$", "Version")
        return None

    def _inside(self, path: str) -> Path:
        """Resolve ``path`` within the root; an absolute link would lead to files of this machine."""
        place = Path(os.path.realpath(self.root / path))
        if not place.is_relative_to(os.path.realpath(self.root)):
            raise UndeterminedError(
                f"/{path} links to a place outside the root {self.root}", code="doctor.outside_root"
            )
        return place

    def _bytes(self, path: str) -> bytes:
        try:
            place = self._inside(path)
            if not stat.S_ISREG(os.stat(place).st_mode):
                raise UndeterminedError(f"/{path} is not a regular file", code="doctor.not_a_file")
            # In chunks: the kernel rejects large reads of /proc/sys.
            with open(place, "rb", buffering=0) as file:
                content = b""
                while len(content) <= _MAX_BYTES and (chunk := file.read(_CHUNK)):
                    content += chunk
        except OSError as error:
            raise UndeterminedError(
                f"cannot read /{path}: {error.strerror}", code="doctor.unreadable"
            ) from error
        if len(content) > _MAX_BYTES:
            raise UndeterminedError(
                f"/{path} is larger than {_MAX_BYTES >> 20} MiB", code="doctor.file_too_large"
            )
        return content
