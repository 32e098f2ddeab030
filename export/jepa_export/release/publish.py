"""Releases: a new one, how far it is rolled out, back to an old one, and those that are not to run any more.

A channel has one pointer per model, ``latest.json``; next to the files of each version is a copy of the last
pointer to it (:mod:`jepa_runtime.ota.release`), for fleets that order an earlier version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tuf.api.metadata import TargetFile

from jepa_export.errors import JepaExportError
from jepa_export.release import delta_maker as deltas
from jepa_export.release.repository import Repository, channel_role
from jepa_export.release.versions import (
    Version,
    as_content,
    compact,
    files_of,
    folder_of,
    history_path,
    latest,
    models,
    read_history,
    store,
)
from jepa_export.teachers.license import forbids_commerce
from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.model.compiled_graphs import runnable_precisions
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.ota.release import (
    RUNTIME_ABI,
    SCHEMA_VERSION,
    Release,
    parse_release,
    pointer_path,
    told_of,
)

# Beside the versions of a model.
_DELTAS = "deltas"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a bundle is to be released.

    Attributes:
        channel: in which.
        release_seq: above that of the release before; None: by one.
        percent: of the robots that are to have it.
        salt: chooses these; None: the model's name.
        hardware_ids: the kinds of robot it is for.
        budgets: those of :class:`jepa_runtime.ota.release.Budgets` that are not to have their default.
        deltas: from how many earlier releases deltas are offered.
    """

    channel: str
    release_seq: int | None = None
    percent: float = 100.0
    salt: str | None = None
    hardware_ids: Sequence[str] = ("any",)
    budgets: Mapping[str, float] = field(default_factory=dict)
    deltas: int = 3


def check_bundle(
    bundle: Bundle, *, engine: str, allow_untrained: bool, accept_non_commercial: bool = False
) -> list[str]:
    """Check that a bundle is fit to be released: trained, free to serve any purpose, and computing here what
    it did at its export.

    Args:
        engine: that computes it.
        allow_untrained: random weights pass.
        accept_non_commercial: a licence that forbids commercial use passes.

    Returns:
        The precisions that were checked.

    Raises:
        JepaExportError: it is not.
        BackendError: there is no such engine, or it cannot run the bundle.
    """
    if not bundle.manifest.trained and not allow_untrained:
        raise JepaExportError(
            f"{bundle.path}: its weights are random, a robot would be driven by noise: train it, or say "
            "--allow-untrained to measure speed"
        )
    licence = bundle.manifest.licence
    if forbids_commerce(licence) and not accept_non_commercial:
        raise JepaExportError(
            f"{bundle.path}: its licence ({licence}) forbids commercial use, on every robot that fetches it: "
            "release another model, or say --accept-non-commercial"
        )
    backend = create_backend(engine)
    precisions = runnable_precisions(bundle.manifest, backend.targets)
    backend.close()
    if not precisions:
        raise JepaExportError(f"{bundle.path}: has nothing that {engine} can run: name another --engine")
    for precision in precisions:
        for parity in golden_parity(bundle, engine=engine, precision=precision):
            if not parity.ok:
                raise JepaExportError(
                    f"{bundle.path}: {precision} {parity.graph} does not reproduce its golden outputs: "
                    f"{parity.figures}: export it again (jepa-runtime verify shows all)"
                )
    return precisions


def publish(repository: Repository, bundle: Bundle, terms: Terms) -> Release:
    """Release a bundle: every file a target, deltas from earlier releases, and the pointer.

    Raises:
        JepaExportError: the version is there already, the release does not follow the one before, or too few
            keys are at hand.
        TrustError: the terms make no valid release.
        BundleError: the bundle was changed meanwhile.
        StorageError: it cannot be written.
    """
    manifest, channel = bundle.manifest, terms.channel
    folder = folder_of(channel, manifest.model_id, manifest.version)
    if manifest.version in read_history(repository, channel, manifest.model_id):
        raise JepaExportError(
            f"{manifest.model_id} {manifest.version} is in channel {channel} already, and never changes: "
            f"give the bundle another version (version in its {MANIFEST_NAME}), or release that one again "
            "(downgrade)"
        )
    previous = latest(repository, channel, manifest.model_id)
    if previous is not None and bundle.sha256 in previous.revoked_manifests:
        raise JepaExportError(
            f"{bundle.path}: channel {channel} has revoked this bundle ({bundle.sha256}), and no robot will "
            f"run it again: give it another version (version in its {MANIFEST_NAME})"
        )
    fields = {
        "schema_version": SCHEMA_VERSION,
        "model_id": manifest.model_id,
        "version": manifest.version,
        "release_seq": _next_seq(previous, terms.release_seq),
        "folder": folder,
        "manifest_sha256": bundle.sha256,
        "runtime_abi": [RUNTIME_ABI, RUNTIME_ABI],
        "hardware_ids": list(terms.hardware_ids),
        **told_of(manifest),
        "budgets": dict(terms.budgets),
        "rollout": {"percent": terms.percent, "salt": terms.salt or manifest.model_id},
        "revoked": list(previous.revoked) if previous else [],
        "revoked_manifests": list(previous.revoked_manifests) if previous else [],
    }
    _checked(fields)
    for record in manifest.files:
        repository.write(channel, f"{folder}/{record.path}", bundle.read(record.path))
    content = (bundle.path / MANIFEST_NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise JepaExportError(f"{bundle.path / MANIFEST_NAME}: was changed meanwhile: publish again")
    repository.write(channel, f"{folder}/{MANIFEST_NAME}", content)
    return _release(repository, channel, fields, terms.deltas)


def rollout(
    repository: Repository, channel: str, model_id: str, percent: float, *, shrink: bool = False
) -> Release:
    """Offer the latest release to another part of the robots.

    Args:
        shrink: whether this part may be smaller; who has the release already keeps it.

    Raises:
        JepaExportError: there is no release, the part would shrink, or too few keys are at hand.
        TrustError: no such percentage.
        StorageError: it cannot be written.
    """
    release = _must_have(repository, channel, model_id)
    if percent < release.rollout.percent and not shrink:
        raise JepaExportError(
            f"release {release.release_seq} of {model_id} is offered to {release.rollout.percent:g} % of the "
            "robots: to offer it to fewer takes nothing back from the others; say --shrink if that is meant"
        )
    changed = release.model_dump(mode="json")
    changed["rollout"]["percent"] = percent
    return _point(repository, channel, changed)


def revoke_manifest(repository: Repository, channel: str, model_id: str, manifest_sha256: str) -> Release:
    """Revoke a bundle by the SHA-256 of its manifest, whether or not this repository has ever released it.

    Robots of the channel that have it go back to the release before it, or replace it; none installs it or
    goes back to it again.

    Raises:
        JepaExportError: it is the latest release, the channel has no release of the model, or too few keys
            are at hand.
        TrustError: that is no SHA-256.
        StorageError: it cannot be written.
    """
    release = _must_have(repository, channel, model_id)
    if manifest_sha256 == release.manifest_sha256:
        raise JepaExportError(
            f"{manifest_sha256} is {release.name} of {model_id}, the latest of channel {channel}: publish "
            "another or downgrade first, then revoke it"
        )
    gone = sorted({*release.revoked_manifests, manifest_sha256})
    return _point(repository, channel, release.model_dump(mode="json") | {"revoked_manifests": gone})


def revoke(repository: Repository, channel: str, model_id: str, release_seq: int) -> Release:
    """Let no robot run a release any more; those that do go back to what they know to be good.

    Raises:
        JepaExportError: there is no such release, its version is the latest, or too few keys are at hand.
        StorageError: it cannot be written.
    """
    release = _must_have(repository, channel, model_id)
    versions = history(repository, channel, model_id)
    known = {seq for seqs in versions.values() for seq in seqs}
    if release_seq not in known:
        raise JepaExportError(
            f"channel {channel} has no release {release_seq} of {model_id}: there are {_numbers(known)}"
        )
    if release_seq in versions[release.version]:
        raise JepaExportError(
            f"release {release_seq} of {model_id} is {release.version}, the latest of channel {channel}: "
            "publish another or downgrade first, then revoke it; a bundle that somebody else released under "
            "this number is revoked by the SHA-256 of its manifest (--manifest)"
        )
    revoked = sorted({*release.revoked, release_seq})
    return _point(repository, channel, release.model_dump(mode="json") | {"revoked": revoked})


def downgrade(
    repository: Repository,
    channel: str,
    model_id: str,
    version: str,
    *,
    percent: float = 100.0,
    count: int = 3,
) -> Release:
    """Release an old version again, under a new number and on the terms it had.

    Args:
        count: from how many releases deltas are offered.

    Raises:
        JepaExportError: there is no such version, it is the latest or was revoked, or too few keys are at
            hand.
        TrustError: no such percentage.
        StorageError: it cannot be written.
    """
    release = _must_have(repository, channel, model_id)
    versions = read_history(repository, channel, model_id)
    if version not in versions or version == release.version:
        others = ", ".join(sorted(set(versions) - {release.version})) or "none"
        raise JepaExportError(
            f"{model_id} {version} is no earlier version of channel {channel}: there are {others}"
        )
    earlier = versions[version]
    if (
        is_revoked(earlier.released_as, release)
        or earlier.release.manifest_sha256 in release.revoked_manifests
    ):
        raise JepaExportError(f"{model_id} {version} was revoked, as release {_numbers(earlier.released_as)}")
    if earlier.pruned:
        raise JepaExportError(
            f"{model_id} {version} was pruned, its files are gone: publish its bundle under another version"
        )
    fields = earlier.release.model_dump(mode="json") | {
        "release_seq": _next_seq(release, None),
        "rollout": {"percent": percent, "salt": release.rollout.salt},
        "revoked": list(release.revoked),
        "revoked_manifests": list(release.revoked_manifests),
    }
    return _release(repository, channel, fields, count)


def history(repository: Repository, channel: str, model_id: str) -> dict[str, list[int]]:
    """The versions of a model that a channel has released, and the numbers of these releases.

    Raises:
        JepaExportError: there is no such channel, or its history is missing or damaged.
    """
    versions = read_history(repository, channel, model_id)
    return {name: list(version.released_as) for name, version in versions.items()}


def is_revoked(numbers: Sequence[int], latest: Release) -> bool:
    """Whether every release of a version was revoked.

    Args:
        numbers: of these releases.
        latest: of the channel.
    """
    return bool(numbers) and set(numbers) <= set(latest.revoked)


def _release(repository: Repository, channel: str, fields: dict[str, Any], count: int) -> Release:
    """Make a version that is there the latest release."""
    offered, targets = _offer(repository, channel, _checked(fields), count)
    return _point(repository, channel, fields | {"deltas": offered}, targets)


def _point(
    repository: Repository,
    channel: str,
    fields: dict[str, Any],
    deltas: Mapping[str, TargetFile] = MappingProxyType({}),
) -> Release:
    """Publish a pointer; ``deltas``: those of its release that are not listed yet."""
    release = _checked(fields)
    changed = compact(repository, channel)
    versions = read_history(repository, channel, release.model_id)
    gone = {
        version.release.manifest_sha256
        for version in versions.values()
        if is_revoked(version.released_as, release)
    }
    gone |= {*release.revoked_manifests}
    release = release.model_copy(update={"revoked_manifests": tuple(sorted(gone))})
    release = parse_release(as_content(release), "release")
    before = versions.get(release.version)
    numbers = {*(before.released_as if before is not None else ()), release.release_seq}
    versions[release.version] = Version(released_as=tuple(sorted(numbers)), release=release)
    superseded = repository.channel(channel).targets.get(history_path(channel, release.model_id))
    changed += store(repository, channel, release.model_id, versions, touched=release.version, deltas=deltas)
    repository.add(channel, pointer_path(channel, release.model_id), as_content(release))
    repository.commit(channel_role(channel), *changed)
    newest = repository.stored(repository.channel(channel).targets[history_path(channel, release.model_id)])
    read = {newest} if superseded is None else {newest, repository.stored(superseded)}
    for path in set(newest.parent.glob(f"*.{newest.name.partition('.')[2]}")) - read:
        # Each has the size of all releases, and only publishers read it.
        path.unlink(missing_ok=True)
    return release


def _offer(
    repository: Repository, channel: str, release: Release, count: int
) -> tuple[list[dict[str, Any]], dict[str, TargetFile]]:
    """Make deltas from the ``count`` latest of the other versions: each from a file at the same place."""
    versions = read_history(repository, channel, release.model_id)
    others = [one for name, one in versions.items() if name != release.version and not one.pruned]
    others.sort(key=lambda one: max(one.released_as), reverse=True)
    bases = [
        {path.removeprefix(f"{one.release.folder}/"): target for path, target in files.items()}
        for one in others[:count]
        if (files := files_of(repository, one.release))
    ]
    offered: dict[tuple[str, str], dict[str, Any]] = {}
    targets: dict[str, TargetFile] = {}
    for target in files_of(repository, release).values():
        path = target.path.removeprefix(f"{release.folder}/")
        for base in (files[path] for files in bases if path in files):
            key = (path, _sha256(base))
            if path == MANIFEST_NAME or _sha256(base) == _sha256(target) or key in offered:
                continue
            start, content = repository.content(base), repository.content(target)
            delta = deltas.make(start, content)
            if not deltas.worth_it(delta, content):
                continue
            deltas.prove(start, delta, content)
            folder = folder_of(channel, release.model_id, _DELTAS)
            where = f"{folder}/{release.version}/{_sha256(base)}/{_sha256(target)}"
            targets[where] = repository.write(channel, where, delta)
            offered[key] = {
                "path": path,
                "base_sha256": _sha256(base),
                "target": where,
                "bytes": len(delta),
            }
    return list(offered.values()), targets


def _checked(fields: dict[str, Any]) -> Release:
    # The reader of robots judges: what is published is what they can read.
    return parse_release(json.dumps(fields).encode(), "release")


def _must_have(repository: Repository, channel: str, model_id: str) -> Release:
    release = latest(repository, channel, model_id)
    if release is None:
        there = ", ".join(models(repository, channel)) or "none"
        raise JepaExportError(f"channel {channel} has no model {model_id!r}: there are {there}")
    return release


def _next_seq(previous: Release | None, asked: int | None) -> int:
    last = 0 if previous is None else previous.release_seq
    if asked is not None and asked <= last:
        raise JepaExportError(f"release {asked} does not follow {last}: robots would refuse it as a rollback")
    return asked or last + 1


def _sha256(target: TargetFile) -> str:
    return target.hashes["sha256"]


def _numbers(values: Collection[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"
