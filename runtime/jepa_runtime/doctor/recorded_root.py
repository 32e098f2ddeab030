"""Facts about another machine, whose files are below a folder such as a mounted disk.

Facts that files cannot contain are read from a JSON file next to the folder: ``orin.json`` for ``orin/``
(docs/doctor.md has the format). Every entry is optional; checks that need a missing entry are unknown.
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

_MAX_BYTES = 1 << 20
# The environment that firmware_configs expects, and Debian's folders for a Python such as "python3.12".
_ENVIRONMENT = "opt/jepa-edge"
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
    """The schema of the JSON file next to a root."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    kernel: _Word | None = None
    architecture: _Word | None = None
    account: _Account | None = None
    nodes: dict[_Path, _Node] | None = None
    free_bytes: dict[_Path, Annotated[int, Field(ge=0, lt=1 << 63)]] | None = None
    clock_synchronized: bool | None = None


class RecordedFacts:
    """The :class:`jepa_runtime.doctor.system.Facts` of a recorded root.

    Attributes:
        path: The JSON file next to the root; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        """Read the JSON file next to ``root``, if there is one.

        Raises:
            DoctorError: ``root`` is not a folder, or the JSON file is invalid.
        """
        if not os.path.isdir(root):
            raise DoctorError(
                f"{root} is not a folder: pass the root folder of a machine, such as a mounted disk",
                code="doctor.root_not_a_folder",
            )
        self._root = root.resolve()
        self.path = self._root.with_name(self._root.name + ".json")
        self._recording = _read(self.path)

    def kernel(self) -> str:
        """Return the recorded kernel release."""
        return self._require(self._recording.kernel, "kernel")

    def architecture(self) -> str:
        """Return the recorded architecture."""
        return self._require(self._recording.architecture, "architecture")

    def account(self) -> Account:
        """Return the recorded account."""
        account = self._require(self._recording.account, "account")
        return Account(account.name, account.uid, frozenset(account.groups))

    def nodes(self, pattern: str) -> dict[str, Node]:
        """Return the recorded device nodes whose path matches ``pattern``."""
        nodes = self._require(self._recording.nodes, "nodes")
        return {
            path: Node(node.owner, node.group, int(node.mode, 8))
            for path, node in sorted(nodes.items())
            if fnmatchcase(path, pattern)
        }

    def free_bytes(self, path: str) -> tuple[str, int]:
        """Return the nearest recorded folder at or above ``path``, and its free bytes."""
        free = self._require(self._recording.free_bytes, "free_bytes")
        for place in (path, *map(str, PurePosixPath(path).parents)):
            if place in free:
                return place, free[place]
        raise UndeterminedError(
            f"{self.path} has no entry in free_bytes for {path} or a folder above it",
            code="doctor.not_recorded",
        )

    def clock_synchronized(self) -> bool:
        """Return the recorded state of the clock."""
        return self._require(self._recording.clock_synchronized, "clock_synchronized")

    def library_folders(self) -> Sequence[str]:
        """Return the import path of the environment in /opt/jepa-edge, or else of the system's Python."""
        own = self._folders(f"{_ENVIRONMENT}/lib/python3.*/site-packages")[-1:]
        if not own:
            return [folder for pattern in _DEBIAN for folder in self._folders(pattern.format("python3.*"))]
        try:
            settings = (self._root / _ENVIRONMENT / "pyvenv.cfg").read_text(errors="replace")
        except OSError:
            settings = ""
        if "include-system-site-packages = true" not in settings:
            return own
        python = PurePosixPath(own[0]).parent.name
        return own + [folder for pattern in _DEBIAN for folder in self._folders(pattern.format(python))]

    def program(self, name: str) -> str:
        """Return the path of a program in the environment in /opt/jepa-edge."""
        return f"/{_ENVIRONMENT}/bin/{name}"

    def needs_root_to_install(self) -> bool:
        """Return True: the environment in /opt/jepa-edge belongs to root."""
        return True

    def _folders(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern, root_dir=self._root))

    def _require(self, value: _T | None, name: str) -> _T:
        if value is None:
            raise UndeterminedError(
                f"files do not contain it, and {self.path} has no entry {name!r}", code="doctor.not_recorded"
            )
        return value


def _read(path: Path) -> Recording:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise DoctorError(
                f"{path} is larger than {_MAX_BYTES >> 20} MiB: record the machine again",
                code="doctor.recording_too_large",
            )
        return parse_json_as(Recording, content, str(path))
    except FileNotFoundError:
        return Recording.model_validate({"schema": 1})
    except OSError as error:
        raise DoctorError(
            f"cannot read {path}: {error.strerror}", code="doctor.recording_unreadable"
        ) from error
    except StrictJsonError as error:
        raise DoctorError(
            f"{error}: correct it, or record the machine again", code="doctor.recording_invalid"
        ) from error
