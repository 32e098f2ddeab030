"""Releases: publish, roll out, downgrade, revoke.

A channel has one pointer per model, ``latest.json``. Next to the files of each version is a copy of the last
pointer to it (:mod:`jepa_runtime.ota.release`), for fleets that request an earlier version.
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
    ModelVersion,
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
from jepa_export.teachers.license import forbids_commercial_use
from jepa_runtime.backends import create_backend
from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.model import golden_parity, runnable_precisions
from jepa_runtime.ota import (
    RUNTIME_ABI,
    SCHEMA_VERSION,
    Release,
    manifest_fields,
    parse_release,
    pointer_path,
)

# Next to the versions of a model.
_DELTAS = "deltas"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of a release.

    Attributes:
        channel: Name of the channel.
        release_seq: Sequence number, above that of the previous release; None: the next number.
        percent: Percentage of the robots to which the release is offered.
        salt: Selects these robots; None: the name of the model.
        hardware_ids: Types of robot.
        budgets: Values of :class:`jepa_runtime.ota.release.Budgets` that differ from the default.
        deltas: Number of earlier releases from which deltas are offered.
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
    """Check that a bundle can be released: trained, commercially usable, and reproducing its golden outputs.

    Args:
        bundle: Bundle to release.
        engine: Engine for the verification.
        allow_untrained: Whether random weights are accepted.
        accept_non_commercial: Whether a license that forbids commercial use is accepted.

    Returns:
        The precisions that were verified.

    Raises:
        JepaExportError: The bundle cannot be released.
        BackendError: The engine does not exist, or cannot run the bundle.
    """
    if not bundle.manifest.trained and not allow_untrained:
        raise JepaExportError(
            f"{bundle.path}: its weights are random, a robot would be driven by noise: train it, or pass "
            "--allow-untrained to measure speed",
            code="release.untrained",
        )
    license = bundle.manifest.licence
    if forbids_commercial_use(license) and not accept_non_commercial:
        raise JepaExportError(
            f"{bundle.path}: its license ({license}) forbids commercial use, on every robot that downloads "
            "it: release another model, or pass --accept-non-commercial",
            code="export.non_commercial",
        )
    backend = create_backend(engine)
    precisions = runnable_precisions(bundle.manifest, backend.targets)
    backend.close()
    if not precisions:
        raise JepaExportError(
            f"{bundle.path}: has no variant for {engine}: choose another --engine",
            code="release.engine_unsupported",
        )
    for precision in precisions:
        for parity in golden_parity(bundle, engine=engine, precision=precision):
            if not parity.ok:
                raise JepaExportError(
                    f"{bundle.path}: {precision} {parity.graph} does not reproduce its golden outputs: "
                    f"{parity.figures}: build it again (jepa-runtime verify lists all graphs)",
                    code="export.parity_failed",
                )
    return precisions


def publish(repository: Repository, bundle: Bundle, terms: Terms) -> Release:
    """Release a bundle: write its files as targets, deltas from earlier releases, and the pointer.

    Raises:
        JepaExportError: The version exists already, the sequence number is not above the last one, or too few
            keys are available.
        TrustError: The terms do not form a valid release.
        BundleError: The bundle was changed meanwhile.
        StorageError: A file cannot be written.
    """
    manifest, channel = bundle.manifest, terms.channel
    folder = folder_of(channel, manifest.model_id, manifest.version)
    if manifest.version in read_history(repository, channel, manifest.model_id):
        raise JepaExportError(
            f"{manifest.model_id} {manifest.version} is already in channel {channel}, where a version never "
            f"changes: give the bundle another version (version in its {MANIFEST_NAME}), or release that one "
            "again (jepa-export release downgrade)",
            code="release.version_exists",
        )
    previous = latest(repository, channel, manifest.model_id)
    if previous is not None and bundle.sha256 in previous.revoked_manifests:
        raise JepaExportError(
            f"{bundle.path}: this bundle ({bundle.sha256}) was revoked in channel {channel}, and no robot "
            f"will run it: give it another version (version in its {MANIFEST_NAME})",
            code="release.revoked",
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
        **manifest_fields(manifest),
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
        raise JepaExportError(
            f"{bundle.path / MANIFEST_NAME}: was changed meanwhile: publish again",
            code="release.bundle_changed",
        )
    repository.write(channel, f"{folder}/{MANIFEST_NAME}", content)
    return _release(repository, channel, fields, terms.deltas)


def rollout(
    repository: Repository, channel: str, model_id: str, percent: float, *, shrink: bool = False
) -> Release:
    """Change the percentage of the robots to which the latest release is offered.

    Args:
        repository: Repository opened for changes.
        channel: Name of the channel.
        model_id: Id of the model.
        percent: Percentage of the robots.
        shrink: Whether the percentage may decrease; robots that have the release keep it.

    Raises:
        JepaExportError: There is no release, the percentage would decrease, or too few keys are available.
        TrustError: The percentage is invalid.
        StorageError: A file cannot be written.
    """
    release = _require_latest(repository, channel, model_id)
    if percent < release.rollout.percent and not shrink:
        raise JepaExportError(
            f"release {release.release_seq} of {model_id} is offered to {release.rollout.percent:g} % of the "
            "robots, and a smaller percentage does not remove it from the others: pass --shrink to continue",
            code="release.rollout_shrinks",
        )
    changed = release.model_dump(mode="json")
    changed["rollout"]["percent"] = percent
    return _point(repository, channel, changed)


def revoke_manifest(repository: Repository, channel: str, model_id: str, manifest_sha256: str) -> Release:
    """Revoke a bundle by the SHA-256 of its manifest, whether or not this repository ever released it.

    Robots of the channel that run it roll back to the previous release, or replace it; none installs it or
    rolls back to it again.

    Raises:
        JepaExportError: It is the latest release, the channel has no release of the model, or too few keys
            are available.
        TrustError: The hash is not a SHA-256.
        StorageError: A file cannot be written.
    """
    release = _require_latest(repository, channel, model_id)
    if manifest_sha256 == release.manifest_sha256:
        raise JepaExportError(
            f"{manifest_sha256} is {release.name} of {model_id}, the latest release of channel {channel}: "
            "publish another release or downgrade first, then revoke it",
            code="release.revoking_latest",
        )
    revoked = sorted({*release.revoked_manifests, manifest_sha256})
    return _point(repository, channel, release.model_dump(mode="json") | {"revoked_manifests": revoked})


def revoke(repository: Repository, channel: str, model_id: str, release_seq: int) -> Release:
    """Revoke a release; robots that run it roll back to their last known good model.

    Raises:
        JepaExportError: There is no such release, its version is the latest, or too few keys are available.
        StorageError: A file cannot be written.
    """
    release = _require_latest(repository, channel, model_id)
    versions = history(repository, channel, model_id)
    known = {seq for seqs in versions.values() for seq in seqs}
    if release_seq not in known:
        raise JepaExportError(
            f"channel {channel} has no release {release_seq} of {model_id}: it has {_numbers(known)}",
            code="release.unknown_release",
        )
    if release_seq in versions[release.version]:
        raise JepaExportError(
            f"release {release_seq} of {model_id} is {release.version}, the latest of channel {channel}: "
            "publish another release or downgrade first, then revoke it; a bundle that somebody else signed "
            "under this number is revoked by the SHA-256 of its manifest (--manifest)",
            code="release.revoking_latest",
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
    """Release an old version again, with a new sequence number and the terms it had.

    Args:
        repository: Repository opened for changes.
        channel: Name of the channel.
        model_id: Id of the model.
        version: Version to release.
        percent: Percentage of the robots to which it is offered.
        count: Number of earlier releases from which deltas are offered.

    Raises:
        JepaExportError: There is no such version, it is the latest or was revoked, or too few keys are
            available.
        TrustError: The percentage is invalid.
        StorageError: A file cannot be written.
    """
    release = _require_latest(repository, channel, model_id)
    versions = read_history(repository, channel, model_id)
    if version not in versions or version == release.version:
        others = ", ".join(sorted(set(versions) - {release.version})) or "none"
        raise JepaExportError(
            f"{model_id} {version} is not an earlier version in channel {channel}: it has {others}",
            code="release.unknown_version",
        )
    earlier = versions[version]
    if (
        is_revoked(earlier.released_as, release)
        or earlier.release.manifest_sha256 in release.revoked_manifests
    ):
        raise JepaExportError(
            f"{model_id} {version} was revoked as release {_numbers(earlier.released_as)}: publish another "
            "version",
            code="release.revoked",
        )
    if earlier.pruned:
        raise JepaExportError(
            f"{model_id} {version} was pruned, its files were removed: publish its bundle under another "
            "version",
            code="release.pruned",
        )
    fields = earlier.release.model_dump(mode="json") | {
        "release_seq": _next_seq(release, None),
        "rollout": {"percent": percent, "salt": release.rollout.salt},
        "revoked": list(release.revoked),
        "revoked_manifests": list(release.revoked_manifests),
    }
    return _release(repository, channel, fields, count)


def history(repository: Repository, channel: str, model_id: str) -> dict[str, list[int]]:
    """Return the versions of a model in a channel, each with the sequence numbers of its releases.

    Raises:
        JepaExportError: There is no such channel, or its history is missing or damaged.
    """
    versions = read_history(repository, channel, model_id)
    return {name: list(version.released_as) for name, version in versions.items()}


def is_revoked(numbers: Sequence[int], latest: Release) -> bool:
    """Return whether every release of a version was revoked.

    Args:
        numbers: Sequence numbers of these releases.
        latest: Latest release of the channel.
    """
    return bool(numbers) and set(numbers) <= set(latest.revoked)


def _release(repository: Repository, channel: str, fields: dict[str, Any], count: int) -> Release:
    """Make a version whose files exist the latest release."""
    offered, targets = _offer(repository, channel, _checked(fields), count)
    return _point(repository, channel, fields | {"deltas": offered}, targets)


def _point(
    repository: Repository,
    channel: str,
    fields: dict[str, Any],
    deltas: Mapping[str, TargetFile] = MappingProxyType({}),
) -> Release:
    """Publish a pointer; ``deltas`` are those of its release that are not listed yet."""
    release = _checked(fields)
    changed = compact(repository, channel)
    versions = read_history(repository, channel, release.model_id)
    revoked = {
        version.release.manifest_sha256
        for version in versions.values()
        if is_revoked(version.released_as, release)
    }
    revoked |= {*release.revoked_manifests}
    release = release.model_copy(update={"revoked_manifests": tuple(sorted(revoked))})
    release = parse_release(as_content(release), "release")
    previous = versions.get(release.version)
    numbers = {*(previous.released_as if previous is not None else ()), release.release_seq}
    versions[release.version] = ModelVersion(released_as=tuple(sorted(numbers)), release=release)
    superseded = repository.channel(channel).targets.get(history_path(channel, release.model_id))
    changed += store(repository, channel, release.model_id, versions, touched=release.version, deltas=deltas)
    repository.add(channel, pointer_path(channel, release.model_id), as_content(release))
    repository.commit(channel_role(channel), *changed)
    newest = repository.stored(repository.channel(channel).targets[history_path(channel, release.model_id)])
    read = {newest} if superseded is None else {newest, repository.stored(superseded)}
    for path in set(newest.parent.glob(f"*.{newest.name.partition('.')[2]}")) - read:
        # Each copy grows with the number of releases, and only publishers read it.
        path.unlink(missing_ok=True)
    return release


def _offer(
    repository: Repository, channel: str, release: Release, count: int
) -> tuple[list[dict[str, Any]], dict[str, TargetFile]]:
    """Create deltas from the ``count`` latest of the other versions, between files of the same path."""
    versions = read_history(repository, channel, release.model_id)
    others = [other for name, other in versions.items() if name != release.version and not other.pruned]
    others.sort(key=lambda other: max(other.released_as), reverse=True)
    bases = [
        {path.removeprefix(f"{other.release.folder}/"): target for path, target in files.items()}
        for other in others[:count]
        if (files := files_of(repository, other.release))
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
            delta_path = f"{folder}/{release.version}/{_sha256(base)}/{_sha256(target)}"
            targets[delta_path] = repository.write(channel, delta_path, delta)
            offered[key] = {
                "path": path,
                "base_sha256": _sha256(base),
                "target": delta_path,
                "bytes": len(delta),
            }
    return list(offered.values()), targets


def _checked(fields: dict[str, Any]) -> Release:
    # Parsed by the robots' own reader, so that robots can read whatever is published.
    return parse_release(json.dumps(fields).encode(), "release")


def _require_latest(repository: Repository, channel: str, model_id: str) -> Release:
    release = latest(repository, channel, model_id)
    if release is None:
        known = ", ".join(models(repository, channel)) or "none"
        raise JepaExportError(
            f"channel {channel} has no model {model_id!r}: it has {known}", code="release.unknown_model"
        )
    return release


def _next_seq(previous: Release | None, requested: int | None) -> int:
    last = 0 if previous is None else previous.release_seq
    if requested is not None and requested <= last:
        raise JepaExportError(
            f"release {requested} does not follow {last}: robots would reject it as a rollback",
            code="release.sequence_not_increasing",
        )
    return requested or last + 1


def _sha256(target: TargetFile) -> str:
    return target.hashes["sha256"]


def _numbers(values: Collection[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"
