"""Remove files from a repository that no robot and no publisher needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from jepa_export.errors import JepaExportError
from jepa_export.release.repository import METADATA, TARGETS, Repository
from jepa_export.release.versions import files_of, models, prune_versions, read_history

_NAME = re.compile(r"([0-9]+\..+\.json$|[0-9a-f]{64}\.)")


@dataclass(frozen=True)
class PruneResult:
    """What was removed: names of versions, and the number and size in bytes of files."""

    versions: list[str]
    files: int
    size: int


def prune(repository: Repository, *, keep: int, after: timedelta) -> PruneResult:
    """Remove the files of old versions, and metadata and targets that were replaced.

    All versions of root stay, because a robot that was offline needs each that it has not seen.

    Args:
        repository: Repository opened for changes.
        keep: Number of versions of each model in each channel whose files stay.
        after: Younger files stay, because a robot may be reading them.

    Raises:
        JepaExportError: A needed file is missing or damaged, a file cannot be removed, or too few keys are
            available.
        StorageError: The metadata cannot be written.
    """
    versions = prune_versions(repository, keep)
    needed = {*_metadata(repository), *_targets(repository)}
    before, files, size = repository.now() - after, 0, 0
    for top in (METADATA, TARGETS):
        for path in sorted((repository.folder / top).rglob("*"), reverse=True):
            try:
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif _is_replaceable(path) and path not in needed and _changed_at(path) < before:
                    size += path.lstat().st_size
                    files += 1
                    path.unlink()
            except OSError as error:
                raise JepaExportError(
                    f"{path}: cannot be removed: {error.strerror}", code="release.remove_failed"
                ) from error
    return PruneResult(versions, files, size)


def _metadata(repository: Repository) -> Iterator[Path]:
    metadata = repository.folder / METADATA
    yield metadata / "timestamp.json"
    yield from metadata.glob("*.root.json")
    for role, signed in repository.signed.items():
        yield metadata / f"{signed.version}.{role}.json"


def _targets(repository: Repository) -> Iterator[Path]:
    for channel in repository.channels:
        for target in repository.listed(channel).values():
            yield repository.stored(target)
        for model_id in models(repository, channel):
            for version in read_history(repository, channel, model_id).values():
                if not version.pruned:
                    yield from map(repository.stored, files_of(repository, version.release).values())


def _is_replaceable(path: Path) -> bool:
    """Return whether the file name has a version or a hash, as that of every file that can be replaced."""
    return _NAME.match(path.name) is not None


def _changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, timezone.utc)
