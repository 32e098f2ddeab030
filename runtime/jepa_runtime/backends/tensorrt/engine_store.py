"""The cache of engines that were built on this machine.

An engine is code for one GPU, built by one version of one library, and cannot be used elsewhere. Engines are
cached under a key that covers everything they depend on, each with a metadata file that has its SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import Shape
from jepa_runtime.backends.file_ownership import is_own
from jepa_runtime.errors import BackendError
from jepa_runtime.util.atomic_files import replacing

SYSTEM_FOLDER = Path("/var/cache/jepa-edge")
# The engines built or used last are retained; each takes some tens of MB.
MAX_BYTES = 4 << 30
_ENGINE, _ABOUT, _LAYERS, _LOCK = ".engine", ".json", ".layers", ".lock"
_MAX_ABOUT_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Represent everything that an engine depends on.

    Attributes:
        graph_sha256: The hash of the ONNX file.
        shapes: The shapes of its inputs.
        library: The library that builds and runs it.
        version: The version of the library.
        gpu: The name of the GPU.
        compute_capability: For example 8.7.
        multiprocessors: The number of active multiprocessors.
        driver: The CUDA version of the driver.
        options: The options of the builder.
    """

    graph_sha256: str
    shapes: tuple[tuple[str, Shape], ...]
    library: str
    version: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    driver: str
    options: str

    @property
    def digest(self) -> str:
        """The name of the files of the engine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


def engine_folders(chosen: Path | None) -> list[Path]:
    """Return the folders that are searched for engines; new engines are written to the first.

    They are the chosen folder or, without one, the system folder and the cache of this account; the system
    folder is first if this account can write to it.
    """
    if chosen is not None:
        return [chosen]
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa-edge"
    return [SYSTEM_FOLDER, own] if os.access(SYSTEM_FOLDER, os.W_OK) else [own, SYSTEM_FOLDER]


class EngineStore:
    """The engines in the folders of :func:`engine_folders`, which need not exist yet."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.folder = folders[0]

    def find(self, key: EngineKey) -> bytes:
        """Read the engine of ``key``.

        Raises:
            BackendError: There is no usable engine; the message has the reason.
        """
        reasons = []
        for folder in self.folders:
            about = folder / f"{key.digest}{_ABOUT}"
            try:
                if about.exists():
                    return _engine(about, key)
            except BackendError as error:
                reasons.append(str(error))
            except OSError as error:
                reasons.append(f"{folder}: cannot be read: {error.strerror}")
        raise BackendError("; ".join(reasons) or self._why_missing(key), code="backend.engine_not_built")

    @contextmanager
    def build_lock(self) -> Iterator[None]:
        """Lock the folder for a build: a process that builds the same engine waits, and then finds it.

        Raises:
            BackendError: The folder cannot be written, or belongs to another account, which could then no
                longer build there, and whose engines would not be loaded.
        """
        with self._writing():
            owner = self.folder.stat().st_uid
            if owner != os.geteuid():
                raise BackendError(
                    f"{self.folder}: belongs to {_name_of(owner)}: build engines as that account (sudo -u), "
                    "or give a --cache-dir of this account",
                    code="backend.cache_invalid",
                )
            lock = _locked(self.folder / _LOCK)
        try:
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def store(self, key: EngineKey, engine: bytes, *, layers: str, **facts: Any) -> None:
        """Write an engine, its layers (JSON of its library) and metadata; then remove obsolete engines.

        Raises:
            BackendError: It cannot be written.
        """
        about = key.as_dict() | {
            "sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        self.write(f"{key.digest}{_ENGINE}", engine)
        self.write(f"{key.digest}{_LAYERS}", layers.encode())
        self.write(f"{key.digest}{_ABOUT}", json.dumps(about, indent=1).encode())
        self._tidy(key)

    def read(self, name: str) -> bytes:
        """Read another file of the folder; empty if it cannot be read."""
        with suppress(BackendError):
            return _read_own(self.folder / name)
        return b""

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file. It is not synchronized to disk: its SHA-256 reveals a damaged file.

        Raises:
            BackendError: It cannot be written.
        """
        with self._writing(), replacing(self.folder / name) as temporary:
            temporary.write_bytes(content)
            temporary.chmod(0o644)

    def _tidy(self, key: EngineKey) -> None:
        """Remove engines of this library and GPU for other versions, then those used longest ago.

        Engines for another number of multiprocessors are retained: that power mode may be used again.
        """
        entries, here = [], key.as_dict()
        for digest, about in _all(self.folder):
            same = all(about.get(name) == here[name] for name in ("library", "gpu", "multiprocessors"))
            if same and _differences(about, key):
                self._remove(digest)
            else:
                with suppress(OSError):
                    used = (self.folder / f"{digest}{_ENGINE}").stat()
                    entries.append((max(used.st_atime, used.st_mtime), used.st_size, digest))
        retained = 0
        for _, size, digest in sorted(entries, reverse=True):
            retained += size
            if retained > MAX_BYTES and digest != key.digest:
                self._remove(digest)

    def _remove(self, digest: str) -> None:
        for suffix in (_ABOUT, _LAYERS, _ENGINE):
            with suppress(OSError):
                (self.folder / f"{digest}{suffix}").unlink()

    def _why_missing(self, key: EngineKey) -> str:
        where = " and ".join(map(str, self.folders))
        for folder in self.folders:
            for _, about in _all(folder):
                same = about.get("graph_sha256") == key.graph_sha256
                if same and (differences := _differences(about, key)):
                    return f"its engine in {folder} does not match: {differences}"
        return f"its engine was not built (searched {where})"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise BackendError(
                f"{self.folder}: cannot be written: {error.strerror}: give a --cache-dir that this account "
                "can write, or build engines as the account that owns it",
                code="backend.cache_invalid",
            ) from error


def _locked(path: Path) -> int:
    """Lock a file exclusively, and return its descriptor; closing it releases the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _engine(path: Path, key: EngineKey) -> bytes:
    about = _about(path)
    if about | key.as_dict() != about:
        raise BackendError(
            f"{path}: describes another engine: remove it and build the engine again",
            code="backend.engine_invalid",
        )
    engine = _read_own(path.with_suffix(_ENGINE))
    if about.get("sha256") != hashlib.sha256(engine).hexdigest():
        raise BackendError(
            f"{path.with_suffix(_ENGINE)}: damaged (SHA-256 mismatch): build it again",
            code="backend.engine_invalid",
        )
    # Record the time of use. This fails for files of another account.
    with suppress(OSError):
        os.utime(path.with_suffix(_ENGINE))
    return engine


def _all(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted(folder.glob(f"*{_ABOUT}")):
        with suppress(BackendError):
            found.append((path.stem, _about(path)))
    return found


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(_read_own(path, _MAX_ABOUT_BYTES))
    except (ValueError, RecursionError) as error:
        raise BackendError(
            f"{path}: damaged: {error}: build the engine again", code="backend.engine_invalid"
        ) from error
    if not isinstance(about, dict):
        raise BackendError(
            f"{path}: damaged: not a JSON object: build the engine again", code="backend.engine_invalid"
        )
    return about


def _differences(about: Mapping[str, Any], key: EngineKey) -> str:
    """Return the differences between the machine that an engine was built for and this one."""
    here = key.as_dict()
    return "; ".join(
        f"built for {name.replace('_', ' ')} {about.get(name)}, this is {here[name]}"
        for name in (
            "library",
            "version",
            "gpu",
            "compute_capability",
            "multiprocessors",
            "driver",
            "options",
        )
        if about.get(name) != here[name]
    )


def _read_own(path: Path, limit: int = -1) -> bytes:
    """Read a file that only this account, root, or the owner of the system folder can have written.

    Engines are code. The owner of the system folder is set by root: it is the account of updates, while
    another account serves.

    Raises:
        BackendError: Another account could have written it, it is not a regular file, or cannot be read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found, folder = os.fstat(file.fileno()), os.stat(path.parent)
            owners = (folder.st_uid,) if path.parent == SYSTEM_FOLDER else ()
            own = all(is_own(each, owners=owners) for each in (found, folder))
            if not own or not stat.S_ISREG(found.st_mode):
                raise BackendError(
                    f"{path}: the file or its folder belongs to another account, or other accounts can write "
                    "it; an engine is code and is not loaded from there: remove it and build it again",
                    code="backend.engine_not_trusted",
                )
            return file.read(limit)
    except OSError as error:
        raise BackendError(
            f"{path}: cannot be read: {error.strerror}", code="backend.engine_invalid"
        ) from error
