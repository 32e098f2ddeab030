"""Helpers for tests of releases: bundles of successive versions, and an independent client.

The client is python-tuf's, unmodified. It reads from the folder that a web server would serve.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from jepa_export.release.keys import KeyRing
from jepa_export.release.repository import Repository, utc_now
from jepa_export.release.roles import Policy, init
from jepa_runtime.bundle import MANIFEST_NAME, Bundle, parse_manifest, seal
from jepa_runtime.ota.release import Release, parse_release, pointer_path
from jepa_runtime.ota.transport.repository_sources import FolderSource, Limits
from jepa_runtime.ota.trust.metadata import Floors
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from jepa_runtime.util import atomic_files

WEIGHTS = "encoder/openvino/model.bin"
MODEL = "toy"


class FolderFetcher(FetcherInterface):
    """Fetch URLs from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.removeprefix("folder:///")
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        return iter([path.read_bytes()])


class Client:
    """Represent a robot with a plain TUF client: its trusted root and its metadata folder."""

    def __init__(self, repo: Path, home: Path) -> None:
        self.repo, self.home = repo, home
        self.root = (repo / "metadata" / "1.root.json").read_bytes()
        home.mkdir()

    def updater(self, base: str = "folder:///") -> Updater:
        """Return a refreshed updater."""
        updater = Updater(
            str(self.home),
            f"{base}metadata/",
            str(self.home),
            f"{base}targets/",
            fetcher=FolderFetcher(self.repo) if base == "folder:///" else None,
            bootstrap=self.root,
        )
        updater.refresh()
        return updater

    def latest(self, channel: str = "stable") -> Release | None:
        """Return the release in the pointer of the channel."""
        content = fetch(self.updater(), pointer_path(channel, MODEL))
        return None if content is None else parse_release(content)

    def install(self, folder: Path, channel: str = "stable", base: str = "folder:///") -> Bundle:
        """Fetch all files of the latest release, and open them as a bundle."""
        updater = self.updater(base)
        pointer = fetch(updater, pointer_path(channel, MODEL))
        assert pointer is not None
        release = parse_release(pointer)
        manifest = fetch(updater, release.manifest_target)
        assert manifest is not None
        folder.mkdir()
        (folder / MANIFEST_NAME).write_bytes(manifest)
        for record in parse_manifest(manifest).files:
            content = fetch(updater, f"{release.folder}/{record.path}")
            assert content is not None, record.path
            (folder / record.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / record.path).write_bytes(content)
        return Bundle.open(folder)


class Robot:
    """Represent a robot with our client and its stored metadata."""

    def __init__(self, repo: Path, home: Path) -> None:
        self.repo, self.home, self.floors = repo, home, Floors({}, None)
        self.root = (repo / "metadata" / "1.root.json").read_bytes()

    def refresh(self) -> RepositoryTrust:
        trust = RepositoryTrust(
            self.home,
            root=self.root,
            metadata=FolderSource(self.repo / "metadata"),
            targets=FolderSource(self.repo / "targets"),
            limits=Limits(),
            now=utc_now,
        )
        self.floors = trust.refresh(self.floors)
        return trust


def fetch(updater: Updater, path: str) -> bytes | None:
    """Return a verified target, or None if it is not listed."""
    info = updater.get_targetinfo(path)
    return None if info is None else Path(updater.download_target(info)).read_bytes()


def new_repository(folder: Path, *, policy: Policy | None = None) -> Path:
    """Create a repository ``folder``/repo with channels stable and canary, and keys in ``folder``/keys."""
    init(
        folder / "repo",
        KeyRing(folder / "keys"),
        channels=["stable", "canary"],
        policy=policy or Policy(),
        externals={},
        now=utc_now,
    )
    return folder / "repo"


def opened(repo: Path, *keys: Path) -> Repository:
    """Open the repository with the keys next to it, or others; tests run one publisher only."""
    with Repository.opened(repo, KeyRing(*(keys or (repo.with_name("keys"),)))) as repository:
        return repository


class _Killed(BaseException):
    pass


def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Return whether ``work`` was stopped before a further write, as by a kill."""
    left, write = writes, atomic_files.write

    def counted(path: Path, content: bytes) -> None:
        nonlocal left
        if left == 0:
            raise _Killed
        left -= 1
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(atomic_files, "write", counted)
        try:
            work()
        except _Killed:
            return True
    return False


def variant(source: Path, folder: Path, version: str, *, changed: int = 0) -> Bundle:
    """Copy a bundle with another version and ``changed`` encoder weights off by their last bit."""
    manifest = Bundle.open(source).manifest
    shutil.copytree(source, folder)
    weights = np.frombuffer((folder / WEIGHTS).read_bytes(), np.uint8).copy()
    # In the middle: the constants of the graph precede the weights.
    middle = len(weights) // 8 * 4
    weights[middle : middle + 4 * changed : 4] ^= 1
    (folder / WEIGHTS).write_bytes(weights.tobytes())
    return seal(folder, manifest.model_copy(update={"version": version}))
