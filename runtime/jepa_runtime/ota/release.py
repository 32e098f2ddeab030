"""Releases of a channel, and whether one fits this robot.

A channel has one small file per model, ``models/CHANNEL/MODEL_ID/latest.json``, signed like every other file.
It names the release to run, its hardware, its budgets in the gate, and its rollout. A deliberate downgrade is
an old version under a new, higher ``release_seq``.

``models/CHANNEL/MODEL_ID/releases/VERSION.json`` is a copy of the last pointer to a version, so that a fleet
server may order a version that is not the latest. Only the latest pointer lists revocations.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.bundle.manifest import MANIFEST_NAME, BundlePath, Manifest, ModelId, Sha256
from jepa_runtime.errors import ReleaseRejectedError, StrictJsonError, TrustError
from jepa_runtime.util.strict_json import parse_json, validate_json

SCHEMA_VERSION = 1
"""The version of the format."""
RUNTIME_ABI = 1
"""Incremented when an older runtime could read a new bundle, but would not serve it correctly."""
MAX_POINTER_BYTES = 1 << 18
"""The largest size of a pointer."""
POINTER_NAME = "latest.json"
"""The file name of the pointer to the latest release."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
_Sequence = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Variant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+/[a-z0-9]+$", max_length=64)]


class _Model(BaseModel):
    """A part of a pointer.

    Unknown fields of a later publisher are accepted, and stay when an earlier one signs the file again. A
    field that no robot may ignore raises :data:`SCHEMA_VERSION`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class Rollout(_Model):
    """The percentage of robots that receive a release, and the salt that selects them."""

    percent: Annotated[float, Field(ge=0, le=100)]
    salt: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Budgets(_Model):
    """Limits of a candidate on the robot; None: unlimited.

    Attributes:
        latency_p99_ms: p99 latency of one frame, encode and predict (see
            :mod:`jepa_runtime.ota.gate.latency_budget`).
        peak_memory_mb: Peak memory of the probe process.
        max_error_ratio: Mean prediction score relative to that of the active model (see
            :mod:`jepa_runtime.ota.gate.sequential_test` for the score). The default is above the ratio of
            equal models, and well below ratios that reduce task success (benchmarks/gate.py).
    """

    latency_p99_ms: Annotated[float, Field(gt=0)] | None = None
    peak_memory_mb: Annotated[float, Field(gt=0)] | None = None
    max_error_ratio: Annotated[float, Field(gt=0)] | None = 1.25


class Delta(_Model):
    """A delta that builds one file of the release from a file that the robot has.

    Attributes:
        path: The file within the bundle.
        base_sha256: SHA-256 of the base file.
        target: The delta's path in the repository.
        bytes: The delta's size.
    """

    path: BundlePath
    base_sha256: Sha256
    target: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    bytes: Annotated[int, Field(ge=1, le=1 << 40)]


class Release(_Model):
    """The content of ``latest.json`` and of ``releases/VERSION.json``.

    Attributes:
        model_id: The model.
        version: The version of its bundle.
        release_seq: Release number, which increases with every release of the model in this channel.
        folder: Folder of the bundle's files in the repository.
        manifest_sha256: SHA-256 of the manifest, which contains the hashes of all other files.
        runtime_abi: Lowest and highest :data:`RUNTIME_ABI` that can serve it.
        hardware_ids: Hardware types that it supports; ``any``: all.
        interface: See :func:`manifest_fields`.
        budgets: Limits for the gate.
        rollout: Which robots receive it.
        variants: See :func:`manifest_fields`; empty from an older publisher.
        golden_sha256: See :func:`manifest_fields`; None from an older publisher.
        deltas: Available deltas.
        revoked: Release numbers of this model that no robot may run any more.
        revoked_manifests: SHA-256 of the manifests of revoked releases, because a factory model does not know
            its release number.
    """

    schema_version: Literal[1]
    model_id: ModelId
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    release_seq: _Sequence
    folder: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    manifest_sha256: Sha256
    runtime_abi: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    hardware_ids: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=64)]
    interface: Sha256
    budgets: Budgets
    rollout: Rollout
    variants: Annotated[tuple[_Variant, ...], Field(max_length=64)] = ()
    golden_sha256: Sha256 | None = None
    deltas: Annotated[tuple[Delta, ...], Field(max_length=1000)] = ()
    revoked: Annotated[tuple[_Sequence, ...], Field(max_length=1000)] = ()
    revoked_manifests: Annotated[tuple[Sha256, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _agree(self) -> Release:
        for path in (self.folder, *(delta.target for delta in self.deltas)):
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or "\\" in path or str(pure) != path:
                raise ValueError(f"{path!r} is not a plain relative path")
        if self.runtime_abi[0] > self.runtime_abi[1]:
            raise ValueError(f"runtime_abi: {self.runtime_abi[0]} is above {self.runtime_abi[1]}")
        if self.release_seq in self.revoked:
            raise ValueError(f"release {self.release_seq} revokes itself")
        return self

    @property
    def manifest_target(self) -> str:
        """The path of its manifest in the repository."""
        return f"{self.folder}/{MANIFEST_NAME}"

    @property
    def name(self) -> str:
        """The name for messages."""
        return f"release {self.release_seq} ({self.version})"


@dataclass(frozen=True)
class Robot:
    """The properties of a robot that a release has to fit.

    Attributes:
        hardware_ids: Its hardware types.
        engine: The engine of the serving process.
        precision: The precision of the active model; None: any.
        interface: The action interface that its software expects; None: any.
        needs_poses: Whether its software may steer by poses that the model reads, as the active model does.
    """

    hardware_ids: tuple[str, ...]
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    interface: str | None = None
    needs_poses: bool = False


def pointer_path(channel: str, model_id: str) -> str:
    """Return the path of the pointer to the latest release of a model."""
    return f"models/{channel}/{model_id}/{POINTER_NAME}"


def release_path(channel: str, model_id: str, version: str) -> str:
    """Return the path of the last pointer to a version of a model."""
    return f"models/{channel}/{model_id}/releases/{version}.json"


def parse_release(content: bytes, where: str = POINTER_NAME) -> Release:
    """Read ``latest.json`` or ``releases/VERSION.json``.

    Raises:
        TrustError: The file is too long, not strict JSON, of an unknown version, or has an invalid field.
    """
    if len(content) > MAX_POINTER_BYTES:
        raise TrustError(
            f"{where}: longer than {MAX_POINTER_BYTES >> 10} KiB: publish the release again",
            code="trust.too_long",
        )
    try:
        fields = parse_json(content, where)
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version == SCHEMA_VERSION:
            return validate_json(Release, content, where)
    except StrictJsonError as error:
        raise TrustError(str(error), code="trust.release_invalid") from error
    raise TrustError(
        f"{where}: unknown format version {str(version)[:80]}, this jepa-edge supports version "
        f"{SCHEMA_VERSION}: update jepa-edge",
        code="trust.version_unsupported",
    )


def manifest_fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a release that describe its bundle, so that a robot need not download it first.

    Returns:
        ``interface``: see :func:`interface_digest`; ``variants``: engines and precisions of its graphs, as
        TARGET/PRECISION; ``golden_sha256``: SHA-256 of its golden outputs.
    """
    golden = next(record for record in manifest.files if record.path == manifest.golden.path)
    variants = dict.fromkeys(f"{graph.target}/{graph.precision}" for graph in manifest.graphs.encoder)
    return {
        "interface": interface_digest(manifest),
        "variants": tuple(variants),
        "golden_sha256": golden.sha256,
    }


def interface_digest(manifest: Manifest) -> str:
    """Return a digest of :meth:`~jepa_runtime.bundle.Manifest.interface`."""
    return hashlib.sha256(json.dumps(manifest.interface(), sort_keys=True).encode()).hexdigest()


def rollout_exclusion(release: Release, device_id: str) -> str:
    """Return why a release has not been rolled out to a robot, or an empty string.

    The decision needs no server, is the same every time, and a robot stays included when the percentage
    grows.
    """
    text = f"{release.rollout.salt}|{release.release_seq}|{device_id}"
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    if 100 * draw < release.rollout.percent:
        return ""
    percent = f"{release.rollout.percent:g} % of the robots"
    return f"{release.name} has been rolled out to {percent}, which do not include this one"


def check_compatible(release: Release, robot: Robot) -> None:
    """Check that a release fits this robot, regardless of its rollout.

    Raises:
        ReleaseRejectedError: It does not.
    """
    what = f"release {release.release_seq} of {release.model_id}"
    low, high = release.runtime_abi
    if not low <= RUNTIME_ABI <= high:
        remedy = (
            "update jepa-edge" if low > RUNTIME_ABI else "publish the model for this version of jepa-edge"
        )
        raise ReleaseRejectedError(
            f"{what} needs a runtime ABI from {low} to {high}, this runtime has {RUNTIME_ABI}: {remedy}",
            code="release.runtime_abi",
        )
    if "any" not in release.hardware_ids and not set(release.hardware_ids) & set(robot.hardware_ids):
        raise ReleaseRejectedError(
            f"{what} is for hardware {', '.join(release.hardware_ids)}, this robot is "
            f"{', '.join(robot.hardware_ids)}: publish it for this hardware, or correct hardware_ids in "
            "config.json",
            code="release.hardware",
        )
    if robot.interface is not None and release.interface != robot.interface:
        raise ReleaseRejectedError(
            f"{what} has other actions, limits or steps than this robot's software expects: update that "
            "software first, then accept the new interface with --any-interface",
            code="release.interface",
        )
