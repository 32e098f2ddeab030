"""Helpers for the tests of trust: a robot with stored floors."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.formats import encode_canonical

from jepa_runtime.ota.transport.repository_sources import FolderSource, Limits
from jepa_runtime.ota.trust.metadata import Floors
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from tests.ota.repositories import FILE, Repository

NOTHING = Floors({}, None)
DAY = timedelta(days=1)
LIMITS = Limits(free_bytes=0)


class Robot:
    """A robot, its stored floors, and the repository as it sees it."""

    def __init__(self, home: Path, repository: Repository) -> None:
        self.meta = home / "meta"
        self.part = home / "file.part"
        self.root = repository.first_root
        self.folder = repository.folder
        self.floors = NOTHING
        self.now = repository.now
        self.not_before: datetime | None = None
        self.trust = self._trust()

    def _trust(self) -> RepositoryTrust:
        return RepositoryTrust(
            self.meta,
            root=self.root,
            metadata=FolderSource(self.folder / "metadata"),
            targets=FolderSource(self.folder / "targets"),
            limits=LIMITS,
            now=lambda: self.now,
            not_before=self.not_before,
        )

    def refresh(self) -> Floors:
        self.trust = self._trust()
        self.floors = self.trust.refresh(self.floors)
        return self.floors

    def fetch(self) -> bytes:
        """Refresh the metadata and fetch the file."""
        self.refresh()
        self.trust.download(FILE, self.part)
        return self.part.read_bytes()


def resign(repository: Repository, role: str, signed: dict[str, object]) -> None:
    """Sign metadata that python-tuf would not write."""
    payload = encode_canonical(signed) or ""
    signatures = [signer.sign(payload.encode()).to_dict() for signer in repository.signers[role]]
    repository.file(role).write_text(json.dumps({"signed": signed, "signatures": signatures}))
