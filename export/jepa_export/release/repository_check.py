"""Whether everything that robots may ask for is there and as it was signed."""

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
from jepa_runtime.util.compat import file_sha256


@dataclass(frozen=True)
class Finding:
    """What was checked, and what is wrong with it; ``size`` in bytes."""

    files: int
    size: int
    releases: int
    problems: list[str]


def check(folder: Path, at: datetime) -> Finding:
    """Verify metadata, the hash of every target, and that each pointer names a release that is whole.

    Raises:
        JepaExportError: the metadata itself does not hold.
    """
    repository = look(folder, at)
    listed = [target for name in repository.channels for target in repository.listed(name).values()]
    problems = [problem for target in listed if (problem := _damage(repository.stored(target), target))]
    pointers = [(name, model) for name in repository.channels for model in models(repository, name)]
    for channel, model in pointers:
        try:
            problems += _gaps(repository, channel, model)
        except (JepaExportError, JepaRuntimeError) as error:
            problems.append(str(error))
    return Finding(len(listed), sum(target.length for target in listed), len(pointers), problems)


def look(folder: Path, at: datetime = LONG_AGO) -> Repository:
    """A repository to be read only: without keys, beside a publisher that may be at work.

    Args:
        at: the time at which nothing may have expired.

    Raises:
        JepaExportError: its metadata does not hold.
    """
    signed = read(folder, at)
    return Repository(folder, KeyRing(), utc_now, signed, cast(Root, signed["root"]))


def _damage(path: Path, target: TargetFile) -> str | None:
    try:
        found = file_sha256(path)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}): bring back a copy of it"
    if found != target.hashes["sha256"] or path.stat().st_size != target.length:
        return f"{path}: is not what was signed: bring back a copy of it"
    return None


def _gaps(repository: Repository, channel: str, model: str) -> Iterator[str]:
    """What a robot would miss that follows a pointer."""
    release, targets = latest(repository, channel, model), repository.listed(channel)
    if release is None:
        yield f"channel {channel}: {model} has files but no pointer: publish it"
        return
    what = f"release {release.release_seq} of {model} in channel {channel}"
    manifest = targets.get(release.manifest_target)
    if manifest is None or manifest.hashes["sha256"] != release.manifest_sha256:
        yield f"{what}: its manifest is not listed: publish another version"
        return
    needed = {
        f"{release.folder}/{record.path}": record.sha256
        for record in parse_manifest(repository.content(manifest), manifest.path).files
    }
    for path, sha256 in needed.items():
        if path not in targets or targets[path].hashes["sha256"] != sha256:
            yield f"{what}: {path} is not listed as in its manifest: publish another version"
    for delta in release.deltas:
        if delta.target not in targets or targets[delta.target].length != delta.bytes:
            yield f"{what}: its delta {delta.target} is not listed: publish another version"
