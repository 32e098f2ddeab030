"""A root of another machine: its files below a folder, and what no file tells in a JSON file beside it.

``orin/`` is described by ``orin.json``, as docs/doctor.md says. Every entry may be left out; what needs it is
then unknown. Without such a file (the disk of a robot in a reader, say) the files alone are judged.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from jepa_runtime.doctor.system import Account, Node
from jepa_runtime.errors import DoctorError, StrictJsonError, UndeterminedError
from jepa_runtime.util.strict_json import parse_json_as

_LONGEST = 1 << 20
# Where firmware_configs expects jepa-edge, and where Debian has packages of a Python such as "python3.12".
_OWN = "opt/jepa-edge"
_DEBIAN = ("usr/local/lib/{}/dist-packages", "usr/lib/{}/dist-packages", "usr/lib/python3/dist-packages")
_Path = Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$", max_length=255)]
_Word = Annotated[str, Field(pattern=r"^[\x20-\x7e]+$", max_length=255)]
_T = TypeVar("_T")


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class _Account(_Model):
    name: _Word
    uid: Annotated[int, Field(ge=0)]
    groups: list[_Word]


class _Node(_Model):
    owner: _Word
    group: _Word
    mode: Annotated[str, Field(pattern=r"^0[0-7]{3}$")]


class Recording(_Model):
    """The file beside a root."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    kernel: _Word | None = None
    architecture: _Word | None = None
    account: _Account | None = None
    nodes: dict[_Path, _Node] | None = None
    free_bytes: dict[_Path, Annotated[int, Field(ge=0, lt=1 << 63)]] | None = None
    clock_synchronized: bool | None = None


class RecordedFacts:
    """Implements :class:`jepa_runtime.doctor.system.Facts` for a root.

    Attributes:
        path: of the file beside it.
    """

    def __init__(self, root: Path) -> None:
        """Read what lies beside ``root``.

        Raises:
            DoctorError: there is no such folder, or the file beside it is not as described.
        """
        if not os.path.isdir(root):
            raise DoctorError(f"{root}: is no folder: name the root of a machine, such as a mounted disk")
        self._root = root.resolve()
        self.path = self._root.with_name(self._root.name + ".json")
        self._recording = _read(self.path)

    def kernel(self) -> str:
        """The recorded release."""
        return self._told(self._recording.kernel, "kernel")

    def architecture(self) -> str:
        """The recorded architecture."""
        return self._told(self._recording.architecture, "architecture")

    def account(self) -> Account:
        """The recorded account."""
        account = self._told(self._recording.account, "account")
        return Account(account.name, account.uid, frozenset(account.groups))

    def nodes(self, pattern: str) -> dict[str, Node]:
        """The recorded nodes that match."""
        nodes = self._told(self._recording.nodes, "nodes")
        return {
            path: Node(node.owner, node.group, int(node.mode, 8))
            for path, node in sorted(nodes.items())
            if fnmatchcase(path, pattern)
        }

    def free_bytes(self, path: str) -> tuple[str, int]:
        """Of the nearest folder that was recorded."""
        free = self._told(self._recording.free_bytes, "free_bytes")
        for place in (path, *map(str, PurePosixPath(path).parents)):
            if place in free:
                return place, free[place]
        raise UndeterminedError(f"{self.path} tells the free bytes of nothing at or above {path}")

    def clock_synchronized(self) -> bool:
        """As recorded."""
        return self._told(self._recording.clock_synchronized, "clock_synchronized")

    def library_folders(self) -> Sequence[str]:
        """Where the Python of our own environment looks, or that of the system if there is none."""
        own = self._folders(f"{_OWN}/lib/python3.*/site-packages")[-1:]
        if not own:
            return [folder for pattern in _DEBIAN for folder in self._folders(pattern.format("python3.*"))]
        try:
            settings = (self._root / _OWN / "pyvenv.cfg").read_text(errors="replace")
        except OSError:
            settings = ""
        if "include-system-site-packages = true" not in settings:
            return own
        python = PurePosixPath(own[0]).parent.name
        return own + [folder for pattern in _DEBIAN for folder in self._folders(pattern.format(python))]

    def program(self, name: str) -> str:
        """Of our own environment."""
        return f"/{_OWN}/bin/{name}"

    def needs_root_to_install(self) -> bool:
        """It is root's."""
        return True

    def _folders(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern, root_dir=self._root))

    def _told(self, value: _T | None, name: str) -> _T:
        if value is None:
            raise UndeterminedError(f"no file of a root tells it, and {self.path} has no {name!r}")
        return value


def _read(path: Path) -> Recording:
    try:
        with open(path, "rb") as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise DoctorError(f"{path}: is longer than {_LONGEST >> 20} MiB: record the machine again")
        return parse_json_as(Recording, content, str(path))
    except FileNotFoundError:
        return Recording.model_validate({"schema": 1})
    except OSError as error:
        raise DoctorError(f"{path}: cannot be read: {error.strerror}") from error
    except StrictJsonError as error:
        raise DoctorError(f"{error}: record the machine again", code="doctor.recording_invalid") from error
