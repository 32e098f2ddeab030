"""Releases: a new one, how far it is rolled out, back to an old one, and those that are not to run any more.

A channel has one pointer per model, ``latest.json``, and a copy of the last pointer to each version
(:mod:`jepa_runtime.update.release`), for fleets that order an earlier version and for a downgrade. The
numbers of a version's releases are stored with its manifest in the signed metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from tuf.api.metadata import TargetFile

from jepa_export.errors import JepaExportError
from jepa_export.licence import forbids_commerce
from jepa_export.release import deltas
from jepa_export.release.repository import Repository, channel_role
from jepa_runtime.backends.select import create_backend
from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.sessions import runnable_precisions
from jepa_runtime.update.release import (
    RUNTIME_ABI,
    SCHEMA_VERSION,
    Release,
    parse_release,
    pointer_path,
    release_path,
    told_of,
)
from jepa_runtime.verification import golden_parity

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
        budgets: those of :class:`jepa_runtime.update.release.Budgets` that are not to have their default.
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
    folder = _folder(channel, manifest.model_id, manifest.version)
    if f"{folder}/{MANIFEST_NAME}" in repository.channel(channel).targets:
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
        repository.add(channel, f"{folder}/{record.path}", bundle.read(record.path))
    content = (bundle.path / MANIFEST_NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise JepaExportError(f"{bundle.path / MANIFEST_NAME}: was changed meanwhile: publish again")
    repository.add(channel, f"{folder}/{MANIFEST_NAME}", content, {"released_as": []})
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
    versions = history(repository, channel, model_id)
    if version not in versions or version == release.version:
        others = ", ".join(sorted(set(versions) - {release.version})) or "none"
        raise JepaExportError(
            f"{model_id} {version} is no earlier version of channel {channel}: there are {others}"
        )
    listed = repository.channel(channel).targets[release_path(channel, model_id, version)]
    last = parse_release(repository.content(listed), listed.path)
    if is_revoked(versions[version], release) or last.manifest_sha256 in release.revoked_manifests:
        raise JepaExportError(f"{model_id} {version} was revoked, as release {_numbers(versions[version])}")
    fields = last.model_dump(mode="json") | {
        "release_seq": _next_seq(release, None),
        "rollout": {"percent": percent, "salt": release.rollout.salt},
        "revoked": list(release.revoked),
        "revoked_manifests": list(release.revoked_manifests),
    }
    return _release(repository, channel, fields, count)


def latest(repository: Repository, channel: str, model_id: str) -> Release | None:
    """The latest release of a model in a channel, or None if it has none.

    Raises:
        JepaExportError: there is no such channel, or the pointer is missing or damaged.
        TrustError: the pointer is no valid one.
    """
    target = repository.channel(channel).targets.get(pointer_path(channel, model_id))
    return None if target is None else parse_release(repository.content(target), target.path)


def history(repository: Repository, channel: str, model_id: str) -> dict[str, list[int]]:
    """The versions of a model that a channel has released, and the numbers of these releases.

    Raises:
        JepaExportError: there is no such channel.
    """
    start = _folder(channel, model_id, "")
    return {
        path.removeprefix(start).removesuffix(f"/{MANIFEST_NAME}"): target.custom["released_as"]
        for path, target in repository.channel(channel).targets.items()
        if path.startswith(start) and target.custom
    }


def is_revoked(numbers: Sequence[int], latest: Release) -> bool:
    """Whether every release of a version was revoked.

    Args:
        numbers: of these releases.
        latest: of the channel.
    """
    return bool(numbers) and set(numbers) <= set(latest.revoked)


def models(repository: Repository, channel: str) -> list[str]:
    """The models that a channel has.

    Raises:
        JepaExportError: there is no such channel.
    """
    return sorted({path.split("/")[2] for path in repository.channel(channel).targets})


def _release(repository: Repository, channel: str, fields: dict[str, Any], count: int) -> Release:
    """Make a version that is there the latest release."""
    manifest = repository.channel(channel).targets[f"{fields['folder']}/{MANIFEST_NAME}"]
    numbers = [*cast("list[int]", manifest.custom["released_as"]), fields["release_seq"]]
    offered = _offer(repository, channel, fields["model_id"], fields["version"], count)
    manifest.unrecognized_fields["custom"] = {"released_as": numbers}
    return _point(repository, channel, fields | {"deltas": offered})


def _point(repository: Repository, channel: str, fields: dict[str, Any]) -> Release:
    release = _checked(fields)
    gone = sorted({*release.revoked_manifests, *_revoked_manifests(repository, channel, release)})
    content = json.dumps(release.model_dump(mode="json") | {"revoked_manifests": gone}, indent=1).encode()
    release = parse_release(content, "release")
    for path in (
        pointer_path(channel, release.model_id),
        release_path(channel, release.model_id, release.version),
    ):
        repository.add(channel, path, content)
    _keep_deltas(repository, channel, release)
    repository.commit(channel_role(channel))
    return release


def _keep_deltas(repository: Repository, channel: str, release: Release) -> None:
    """List no others of its model: robots know of those that a pointer names, and a channel has to stay short
    enough for them to read."""
    listed, start = repository.channel(channel).targets, _folder(channel, release.model_id, _DELTAS)
    named = {delta.target for delta in release.deltas}
    for path in [path for path in listed if path.startswith(f"{start}/") and path not in named]:
        del listed[path]


def _revoked_manifests(repository: Repository, channel: str, release: Release) -> tuple[str, ...]:
    """Those of versions of which every release was revoked."""
    targets = repository.channel(channel).targets
    return tuple(
        _sha256(targets[f"{_folder(channel, release.model_id, version)}/{MANIFEST_NAME}"])
        for version, numbers in history(repository, channel, release.model_id).items()
        if is_revoked(numbers, release)
    )


def _offer(
    repository: Repository, channel: str, model_id: str, version: str, count: int
) -> list[dict[str, Any]]:
    """Deltas from the ``count`` latest of the other releases: each from a file at the same place."""
    targets, folder = repository.channel(channel).targets, _folder(channel, model_id, version)
    earlier = {
        other: max(numbers)
        for other, numbers in history(repository, channel, model_id).items()
        if other != version
    }
    bases = sorted(earlier, key=lambda other: earlier[other], reverse=True)[:count]
    offered: dict[tuple[str, str], dict[str, Any]] = {}
    for target in [entry for path, entry in targets.items() if path.startswith(f"{folder}/")]:
        path = target.path.removeprefix(f"{folder}/")
        for other in bases:
            base = targets.get(f"{_folder(channel, model_id, other)}/{path}")
            if path == MANIFEST_NAME or base is None or _sha256(base) == _sha256(target):
                continue
            if (path, _sha256(base)) in offered:
                continue
            start, content = repository.content(base), repository.content(target)
            delta = deltas.make(start, content)
            if not deltas.worth_it(delta, content):
                continue
            deltas.prove(start, delta, content)
            where = f"{_folder(channel, model_id, _DELTAS)}/{_sha256(base)}/{_sha256(target)}"
            repository.add(channel, where, delta)
            offered[path, _sha256(base)] = {
                "path": path,
                "base_sha256": _sha256(base),
                "target": where,
                "bytes": len(delta),
            }
    return list(offered.values())


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


def _folder(channel: str, model_id: str, version: str) -> str:
    return f"models/{channel}/{model_id}/{version}"


def _sha256(target: TargetFile) -> str:
    return target.hashes["sha256"]


def _numbers(values: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"
