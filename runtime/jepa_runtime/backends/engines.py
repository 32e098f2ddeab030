"""Engines built on this machine, and where they are kept.

An engine is code for one GPU, made by one version of one library: it comes from nowhere else, and is of use
nowhere else. So it lies under a key of all that it depends on, and beside it what it is, with its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import Graph, Shape
from jepa_runtime.errors import BackendError

SYSTEM_FOLDER = Path("/var/cache/jepa-edge")
_SUFFIX, _ABOUT = ".engine", ".json"
_MAX_ABOUT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        graph_sha256: of the ONNX file.
        shapes: of its inputs.
        library: that builds and runs it, with its version.
        gpu: its name.
        compute_capability: such as 8.7.
        driver: version of CUDA that the driver offers.
        options: of the builder.
    """

    graph_sha256: str
    shapes: tuple[tuple[str, Shape], ...]
    library: str
    gpu: str
    compute_capability: str
    driver: str
    options: str

    @property
    def digest(self) -> str:
        """The name of its files."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def engine_folder(chosen: Path | None) -> Path:
    """Where engines are kept: the folder that was chosen; else that of the system, where this account may
    write there or it is all there is; else one in the account's own cache."""
    if chosen is not None:
        return chosen
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa-edge"
    return SYSTEM_FOLDER if os.access(SYSTEM_FOLDER, os.W_OK) or not own.is_dir() else own


def graph_sha256(graph: Graph) -> str:
    """Of a graph's files."""
    return hashlib.sha256(graph.model + (graph.weights or b"")).hexdigest()


class EngineStore:
    """The engines in a folder, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: EngineKey) -> bytes:
        """The engine of ``key``.

        Raises:
            BackendError: there is none that can be used; it says why, and what the last one was built for.
        """
        about = self._about(key.digest)
        if about is None:
            raise BackendError(self._why_none(key))
        path = self.folder / f"{key.digest}{_SUFFIX}"
        engine = _read_own(path)
        if about.get("sha256") != hashlib.sha256(engine).hexdigest():
            raise BackendError(f"{path}: is damaged: its SHA-256 is not the one written down beside it")
        return engine

    def keep(self, key: EngineKey, engine: bytes, **told: Any) -> None:
        """Write an engine down, and what is to be known of it.

        Raises:
            BackendError: it cannot be written.
        """
        about = {
            **asdict(key),
            "sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **told,
        }
        self.write(f"{key.digest}{_SUFFIX}", engine)
        self.write(f"{key.digest}{_ABOUT}", json.dumps(about, indent=1).encode())

    def read(self, name: str) -> bytes:
        """Another file of the folder; nothing where there is none."""
        with suppress(BackendError):
            return _read_own(self.folder / name)
        return b""

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once. A torn one is found out by its SHA-256, so nothing waits for the disk.

        Raises:
            BackendError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
                temporary = Path(file.name)
                try:
                    file.write(content)
                    temporary.chmod(0o644)
                    temporary.replace(self.folder / name)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise BackendError(
                f"{self.folder}: {name} cannot be written: {error.strerror}: give --cache-dir a folder that "
                "this account may write, or build engines with the account that owns it"
            ) from error

    def discard_unusable(self, key: EngineKey) -> list[str]:
        """Remove what was built for another library, GPU or driver than ``key``: nothing here runs it.

        Returns:
            What it was built for.
        """
        gone = []
        for digest, about in self._all():
            if differences := _differences(about, key):
                gone.append(f"{digest}: {differences}")
                for suffix in (_ABOUT, _SUFFIX):
                    with suppress(OSError):
                        (self.folder / f"{digest}{suffix}").unlink()
        return gone

    def _why_none(self, key: EngineKey) -> str:
        same = [
            about
            for _, about in self._all()
            if about.get("graph_sha256") == key.graph_sha256 and _differences(about, key)
        ]
        if not same:
            return f"no engine of it was built here (looked in {self.folder})"
        return f"its engine in {self.folder} is of no use any more: {_differences(same[-1], key)}"

    def _all(self) -> list[tuple[str, Mapping[str, Any]]]:
        found = [(path.stem, self._about(path.stem)) for path in sorted(self.folder.glob(f"*{_ABOUT}"))]
        return [(digest, about) for digest, about in found if about is not None]

    def _about(self, digest: str) -> Mapping[str, Any] | None:
        try:
            content = _read_own(self.folder / f"{digest}{_ABOUT}", _MAX_ABOUT_BYTES)
            about = json.loads(content)
        except (BackendError, ValueError, RecursionError):
            return None
        return about if isinstance(about, dict) else None


def _differences(about: Mapping[str, Any], key: EngineKey) -> str:
    """What an engine was built for and is not here."""
    fields = {"library": key.library, "gpu": key.gpu, "driver": key.driver}
    fields["compute_capability"] = key.compute_capability
    return "; ".join(
        f"built for {name.replace('_', ' ')} {about.get(name)}, here is {here}"
        for name, here in fields.items()
        if about.get(name) != here
    )


def _read_own(path: Path, limit: int = -1) -> bytes:
    """A file that only this account, or root, can have written: engines are code.

    Raises:
        BackendError: it is somebody else's, or cannot be read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise BackendError(
                    f"{path}: belongs to another account, or others may write it: an engine is code and is "
                    "not loaded from there; remove it and build it again"
                )
            return file.read(limit)
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror}") from error
