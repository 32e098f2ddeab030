"""The versions of a model in a channel: the history of all, and the files of those that robots can install.

``history.json`` is a signed file for publishers: the sequence numbers of each version's releases, and the
last pointer to it. Robots never read it. The files of the newest :data:`LISTED` versions are in listings
(:mod:`jepa_export.release.repository`); those of an older version are listed again when it is released again,
unless they were pruned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from tuf.api.metadata import DelegatedRole, TargetFile

from jepa_export.errors import JepaExportError
from jepa_export.release.repository import Repository, channel_role, listed_version, listing_role
from jepa_runtime.bundle import MANIFEST_NAME, parse_manifest
from jepa_runtime.ota import POINTER_NAME, Release, parse_release, pointer_path, release_path

# Each adds about 400 bytes of metadata that a robot reads at every change of its channel.
LISTED = 8
_HISTORY_NAME = "history.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a model.

    Attributes:
        released_as: Sequence numbers of its releases.
        release: Last pointer to it.
        pruned: Whether its files were removed.
    """

    released_as: tuple[int, ...]
    release: Release
    pruned: bool = False


def folder_of(channel: str, model_id: str, name: str) -> str:
    """Return the folder of a version in ``targets/``."""
    return f"models/{channel}/{model_id}/{name}"


def history_path(channel: str, model_id: str) -> str:
    """Return the path of the history of a model."""
    return folder_of(channel, model_id, _HISTORY_NAME)


def models(repository: Repository, channel: str) -> list[str]:
    """Return the models of a channel.

    Raises:
        JepaExportError: There is no such channel.
    """
    return sorted({path.split("/")[2] for path in repository.channel(channel).targets})


def latest(repository: Repository, channel: str, model_id: str) -> Release | None:
    """Return the latest release of a model in a channel, or None if it has none.

    Raises:
        JepaExportError: There is no such channel, or the pointer is missing or damaged.
        TrustError: The pointer is invalid.
    """
    target = repository.channel(channel).targets.get(pointer_path(channel, model_id))
    return None if target is None else parse_release(repository.content(target), target.path)


def read_history(repository: Repository, channel: str, model_id: str) -> dict[str, ModelVersion]:
    """Return every version of a model that was released in a channel.

    Raises:
        JepaExportError: There is no such channel, or the history is missing, damaged or of an unknown format.
    """
    target = repository.channel(channel).targets.get(history_path(channel, model_id))
    if target is None:
        return _earlier_history(repository, channel, model_id)
    content = json.loads(repository.content(target))
    if content["schema_version"] != _FORMAT:
        raise JepaExportError(
            f"{target.path}: unknown format version {content['schema_version']}, this jepa-export reads "
            f"version {_FORMAT}: update jepa-edge",
            code="release.unknown_format",
        )
    return {
        name: ModelVersion(
            released_as=tuple(fields["released_as"]),
            release=_parsed(fields["release"]),
            pruned=fields["pruned"],
        )
        for name, fields in content["versions"].items()
    }


def store(
    repository: Repository,
    channel: str,
    model_id: str,
    versions: Mapping[str, ModelVersion],
    *,
    touched: str = "",
    deltas: Mapping[str, TargetFile] = MappingProxyType({}),
) -> list[str]:
    """Write the history of a model, and list the files of its newest versions.

    Args:
        repository: Repository opened for changes.
        channel: Name of the channel.
        model_id: Id of the model.
        versions: All versions by name.
        touched: Version with a new pointer.
        deltas: Its deltas that are not listed yet, by path.

    Returns:
        The listings that changed.

    Raises:
        JepaExportError: A file is missing or damaged, or there is no such channel.
        StorageError: A file cannot be written.
    """
    newest = sorted(versions, key=lambda name: max(versions[name].released_as), reverse=True)
    listed = [name for name in newest if not versions[name].pruned][:LISTED]
    roles = _listings(repository, channel, model_id)
    role_of = {listed_version(entry): role for role, entry in roles.items()}
    free = [role for role, entry in roles.items() if listed_version(entry) not in listed]
    numbered = [listing_role(channel, model_id, number) for number in range(LISTED)]
    free += [role for role in numbered if role not in roles]
    known, changed = {**repository.listed(channel), **deltas}, []
    for name in listed:
        if name not in role_of or name == touched:
            role = role_of.get(name) or free.pop(0)
            _list(repository, channel, role, versions[name].release, known)
            changed.append(role)
    for role in free:
        if role in roles and repository.listing(role):
            repository.set_listing(channel, role, "", {}, [])
            changed.append(role)
    content: dict[str, Any] = {"schema_version": _FORMAT, "versions": {}}
    for name, version in versions.items():
        # Revocations are in the latest pointer, and a version without a listing has no deltas.
        stale = {"revoked": (), "revoked_manifests": ()} | ({} if name in listed else {"deltas": ()})
        release = version.release.model_copy(update=stale)
        content["versions"][name] = {
            "released_as": version.released_as,
            "release": release.model_dump(mode="json"),
            "pruned": version.pruned,
        }
    repository.add(channel, history_path(channel, model_id), json.dumps(content, indent=1).encode())
    return changed


def compact(repository: Repository, channel: str) -> list[str]:
    """Move files that earlier releases of jepa-edge listed in the channel itself into histories and listings.

    Returns:
        The listings that changed.

    Raises:
        JepaExportError: See :func:`store`.
        StorageError: See :func:`store`.
    """
    targets = repository.channel(channel).targets
    legacy = [path for path in targets if path.split("/")[3] not in (POINTER_NAME, _HISTORY_NAME)]
    if not legacy:
        return []
    changed: list[str] = []
    for model_id in models(repository, channel):
        if history_path(channel, model_id) not in targets:
            versions = read_history(repository, channel, model_id)
            changed += store(repository, channel, model_id, versions)
    for path in legacy:
        del targets[path]
    return changed


def prune_versions(repository: Repository, keep: int) -> list[str]:
    """Mark all versions except the ``keep`` newest of each model as pruned, and remove their listings.

    Returns:
        The pruned versions, for messages.

    Raises:
        JepaExportError: See :func:`store`; or too few keys are available.
        StorageError: See :func:`store`.
    """
    pruned: list[str] = []
    changed: list[str] = []
    for channel in repository.channels:
        changed += (listings := compact(repository, channel))
        if listings:
            changed.append(channel_role(channel))
        for model_id in models(repository, channel):
            versions = read_history(repository, channel, model_id)
            newest = sorted(versions, key=lambda name: max(versions[name].released_as), reverse=True)
            removed = [name for name in newest[keep:] if not versions[name].pruned]
            if removed:
                versions |= {name: replace(versions[name], pruned=True) for name in removed}
                changed += [channel_role(channel), *store(repository, channel, model_id, versions)]
                pruned += [f"{model_id} {name} in channel {channel}" for name in removed]
    if changed:
        repository.commit(*changed)
    return pruned


def files_of(repository: Repository, release: Release) -> dict[str, TargetFile]:
    """Return the files of a version by path, from its manifest.

    Raises:
        JepaExportError: The manifest is missing or damaged.
    """
    path = release.manifest_target
    stored = repository.stored(TargetFile(0, {"sha256": release.manifest_sha256}, path))
    try:
        manifest = TargetFile(stored.stat().st_size, {"sha256": release.manifest_sha256}, path)
    except OSError as error:
        raise JepaExportError(
            f"{stored}: cannot be read: {error.strerror}: restore it from a backup",
            code="release.target_unreadable",
        ) from error
    records = parse_manifest(repository.content(manifest), path).files
    listed = [
        TargetFile(record.bytes, {"sha256": record.sha256}, f"{release.folder}/{record.path}")
        for record in records
    ]
    return {target.path: target for target in (*listed, manifest)}


def as_content(release: Release) -> bytes:
    """Return the published content of a pointer."""
    return json.dumps(release.model_dump(mode="json"), indent=1).encode()


def _listings(repository: Repository, channel: str, model_id: str) -> dict[str, DelegatedRole]:
    """Return the listings of a model."""
    prefix = listing_role(channel, model_id, 0).removesuffix("0")
    return {role: entry for role, entry in repository.listings(channel).items() if role.startswith(prefix)}


def _list(
    repository: Repository, channel: str, role: str, release: Release, known: Mapping[str, TargetFile]
) -> None:
    """Put the files of a version into a listing."""
    targets = files_of(repository, release)
    depths = sorted({path.removeprefix(release.folder).count("/") for path in targets})
    paths = [release.folder + "/*" * depth for depth in depths]
    copy = release_path(channel, release.model_id, release.version)
    targets[copy] = repository.write(channel, copy, as_content(release))
    offered = [known[delta.target] for delta in release.deltas if delta.target in known]
    targets |= {target.path: target for target in offered}
    paths += [copy, *sorted({f"{target.path.rpartition('/')[0]}/*" for target in offered})]
    repository.set_listing(channel, role, release.version, targets, paths)


def _earlier_history(repository: Repository, channel: str, model_id: str) -> dict[str, ModelVersion]:
    """Return the history of a model whose files an earlier jepa-edge listed in the channel itself."""
    targets, newest = repository.channel(channel).targets, latest(repository, channel, model_id)
    versions = {}
    for path, target in targets.items():
        folder, _, name = path.rpartition("/")
        if newest is None or name != MANIFEST_NAME or "released_as" not in (target.custom or {}):
            continue
        version = folder.removeprefix(folder_of(channel, model_id, ""))
        numbers = tuple(target.custom["released_as"])
        if folder != folder_of(channel, model_id, version) or not numbers:
            continue
        copy = targets.get(release_path(channel, model_id, version))
        if copy is not None:
            release = parse_release(repository.content(copy), copy.path)
        elif version == newest.version:
            release = newest
        else:
            fields = json.loads(target.custom["terms"])
            rollout = newest.rollout.model_dump(mode="json") | {"percent": 100.0}
            release = _parsed(fields | {"release_seq": max(numbers), "rollout": rollout})
        versions[version] = ModelVersion(released_as=numbers, release=release)
    return versions


def _parsed(fields: Mapping[str, Any]) -> Release:
    return parse_release(json.dumps(fields).encode(), "release")
