"""Verify that every file that robots may request exists and matches its signed hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from tuf.api.metadata import Root, TargetFile

from jepa_export.errors import JepaExportError
from jepa_export.release.keys import KeyRing
from jepa_export.release.repository import LONG_AGO, Repository, read, utc_now
from jepa_export.release.versions import latest, models
from jepa_runtime.bundle import parse_manifest
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util import file_sha256


@dataclass(frozen=True)
class CheckResult:
    """The number and size in bytes of the checked files, and the problems found."""

    files: int
    size: int
    releases: int
    problems: list[str]


def check(folder: Path, at: datetime) -> CheckResult:
    """Verify the metadata, the hash of every target, and that each latest release is complete.

    Raises:
        JepaExportError: The metadata itself is invalid.
    """
    repository = open_read_only(folder, at)
    listed = [target for name in repository.channels for target in repository.listed(name).values()]
    problems = [problem for target in listed if (problem := _damage(repository.stored(target), target))]
    pointers = [(name, model) for name in repository.channels for model in models(repository, name)]
    for channel, model in pointers:
        try:
            problems += _missing(repository, channel, model)
        except (JepaExportError, JepaRuntimeError) as error:
            problems.append(str(error))
    return CheckResult(len(listed), sum(target.length for target in listed), len(pointers), problems)


def open_read_only(folder: Path, at: datetime = LONG_AGO) -> Repository:
    """Open a repository without keys and without the lock of publishers.

    Args:
        folder: Folder of the repository.
        at: Time at which nothing may have expired.

    Raises:
        JepaExportError: The metadata is invalid.
    """
    signed = read(folder, at)
    return Repository(folder, KeyRing(), utc_now, signed, cast(Root, signed["root"]))


def _damage(path: Path, target: TargetFile) -> str | None:
    try:
        found = file_sha256(path)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}): restore it from a backup"
    if found != target.hashes["sha256"] or path.stat().st_size != target.length:
        return f"{path}: does not match its signed hash: restore it from a backup"
    return None


def _missing(repository: Repository, channel: str, model: str) -> Iterator[str]:
    """Yield what a robot would miss that installs the latest release."""
    release, targets = latest(repository, channel, model), repository.listed(channel)
    if release is None:
        yield f"channel {channel}: {model} has files but no release: publish it"
        return
    name = f"release {release.release_seq} of {model} in channel {channel}"
    manifest = targets.get(release.manifest_target)
    if manifest is None or manifest.hashes["sha256"] != release.manifest_sha256:
        yield f"{name}: its manifest is not listed: publish another version"
        return
    needed = {
        f"{release.folder}/{record.path}": record.sha256
        for record in parse_manifest(repository.content(manifest), manifest.path).files
    }
    for path, sha256 in needed.items():
        if path not in targets or targets[path].hashes["sha256"] != sha256:
            yield f"{name}: {path} is not listed as in its manifest: publish another version"
    for delta in release.deltas:
        if delta.target not in targets or targets[delta.target].length != delta.bytes:
            yield f"{name}: its delta {delta.target} is not listed: publish another version"
