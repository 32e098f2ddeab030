"""Engines built on this machine, and where they are kept.

An engine is code for one GPU, made by one version of one library: it comes from nowhere else, and is of use
nowhere else. So it lies under a key of all that it depends on, and beside it what it is, with its SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import Shape
from jepa_runtime.backends.file_ownership import is_own
from jepa_runtime.errors import BackendError

SYSTEM_FOLDER = Path("/var/cache/jepa-edge")
# Those built or used last stay; a robot's model is some tens of MB a graph.
MOST_BYTES = 4 << 30
_ENGINE, _ABOUT, _LAYERS, _LOCK = ".engine", ".json", ".layers", ".lock"
_MAX_ABOUT_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        graph_sha256: of the ONNX file.
        shapes: of its inputs.
        library: that builds and runs it.
        version: of the library.
        gpu: its name.
        compute_capability: such as 8.7.
        multiprocessors: how many of them the GPU has at work.
        driver: version of CUDA that the driver offers.
        options: of the builder.
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
        """The name of its files."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def as_dict(self) -> dict[str, Any]:
        """As it is written down."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


def engine_folders(chosen: Path | None) -> list[Path]:
    """Where engines are looked for; new ones go to the first.

    The folder that was chosen; without one that of the system and the account's own cache, the former first
    where this account may write there.
    """
    if chosen is not None:
        return [chosen]
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa-edge"
    return [SYSTEM_FOLDER, own] if os.access(SYSTEM_FOLDER, os.W_OK) else [own, SYSTEM_FOLDER]


class EngineStore:
    """The engines in some folders, which may not be there yet; see :func:`engine_folders`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.folder = folders[0]

    def find(self, key: EngineKey) -> bytes:
        """The engine of ``key``.

        Raises:
            BackendError: there is none that can be used; it says why, and what the last one was built for.
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
        raise BackendError("; ".join(reasons) or self._why_none(key))

    @contextmanager
    def building(self) -> Iterator[None]:
        """Hold the folder for a build: who builds the same waits, and finds it there.

        Raises:
            BackendError: the folder cannot be written, or is another account's: that could not build there
                from then on, nor is what it built loaded here.
        """
        with self._writing():
            owner = self.folder.stat().st_uid
            if owner != os.geteuid():
                raise BackendError(
                    f"{self.folder}: belongs to {_name_of(owner)}: build engines as that account (sudo -u), "
                    "or give --cache-dir a folder of this one"
                )
            lock = _locked(self.folder / _LOCK)
        try:
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def keep(self, key: EngineKey, engine: bytes, *, layers: str, **told: Any) -> None:
        """Write an engine down, what it consists of (JSON of its library), and what else is to be known of
        it; then remove what nothing here runs any more.

        Raises:
            BackendError: it cannot be written.
        """
        about = key.as_dict() | {
            "sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **told,
        }
        self.write(f"{key.digest}{_ENGINE}", engine)
        self.write(f"{key.digest}{_LAYERS}", layers.encode())
        self.write(f"{key.digest}{_ABOUT}", json.dumps(about, indent=1).encode())
        self._tidy(key)

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
        with self._writing():
            fd, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            try:
                with open(fd, "wb") as file:
                    file.write(content)
                os.chmod(temporary, 0o644)
                os.replace(temporary, self.folder / name)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def _tidy(self, key: EngineKey) -> None:
        """Remove engines of this library and GPU in other versions, then those used longest ago. Engines for
        another number of multiprocessors stay: they are of a power mode that may be chosen again."""
        entries, here = [], key.as_dict()
        for digest, about in _all(self.folder):
            same = all(about.get(name) == here[name] for name in ("library", "gpu", "multiprocessors"))
            if same and _differences(about, key):
                self._remove(digest)
            else:
                with suppress(OSError):
                    used = (self.folder / f"{digest}{_ENGINE}").stat()
                    entries.append((max(used.st_atime, used.st_mtime), used.st_size, digest))
        kept = 0
        for _, size, digest in sorted(entries, reverse=True):
            kept += size
            if kept > MOST_BYTES and digest != key.digest:
                self._remove(digest)

    def _remove(self, digest: str) -> None:
        for suffix in (_ABOUT, _LAYERS, _ENGINE):
            with suppress(OSError):
                (self.folder / f"{digest}{suffix}").unlink()

    def _why_none(self, key: EngineKey) -> str:
        where = " and ".join(map(str, self.folders))
        for folder in self.folders:
            for _, about in _all(folder):
                same = about.get("graph_sha256") == key.graph_sha256
                if same and (differences := _differences(about, key)):
                    return f"its engine in {folder} is of no use here: {differences}"
        return f"no engine of it was built here (looked in {where})"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise BackendError(
                f"{self.folder}: cannot be written: {error.strerror}: give --cache-dir a folder that this "
                "account may write, or build engines with the account that owns it"
            ) from error


def _locked(path: Path) -> int:
    """A descriptor of a file that this process alone has locked, until it is closed."""
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
        raise BackendError(f"{path}: tells of another engine: remove it and build its own again")
    engine = _read_own(path.with_suffix(_ENGINE))
    if about.get("sha256") != hashlib.sha256(engine).hexdigest():
        raise BackendError(f"{path.with_suffix(_ENGINE)}: is damaged: its SHA-256 is another one")
    # When it was used last; of another account's that cannot be told.
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
        raise BackendError(f"{path}: is damaged: {error}") from error
    if not isinstance(about, dict):
        raise BackendError(f"{path}: is damaged: it is no object")
    return about


def _differences(about: Mapping[str, Any], key: EngineKey) -> str:
    """What an engine was built for and is not here."""
    here = key.as_dict()
    return "; ".join(
        f"built for {name.replace('_', ' ')} {about.get(name)}, here is {here[name]}"
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
    """A file that only this account, root, or the owner of the system's folder can have written: engines are
    code. Root says whose the system's folder is: that of updates, while another account serves.

    Raises:
        BackendError: it is somebody else's, no plain file, or cannot be read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found, folder = os.fstat(file.fileno()), os.stat(path.parent)
            owners = (folder.st_uid,) if path.parent == SYSTEM_FOLDER else ()
            own = all(is_own(each, owners=owners) for each in (found, folder))
            if not own or not stat.S_ISREG(found.st_mode):
                raise BackendError(
                    f"{path}: it, or its folder, belongs to another account, or others may write it: an "
                    "engine is code and is not loaded from there; remove it and build it again"
                )
            return file.read(limit)
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror}") from error
