"""What a channel says about its releases, and whether one is for this robot.

A channel keeps one small file per model, ``models/CHANNEL/MODEL_ID/latest.json``. It is signed as all else
is, and says which release is to run, on what, how it is to be judged, and how far it has been rolled out. A
downgrade on purpose is an old version under a new, higher ``release_seq``.

``models/CHANNEL/MODEL_ID/releases/VERSION.json`` is a copy of the last pointer to a version, by which a fleet
server may order a version that is not the latest. What is revoked, the latest pointer alone says.
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
# Raised when a bundle that older runtimes can read would no longer be served rightly by them.
RUNTIME_ABI = 1
MAX_POINTER_BYTES = 1 << 18
POINTER_NAME = "latest.json"

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
_Sequence = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Variant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+/[a-z0-9]+$", max_length=64)]


class _Model(BaseModel):
    """Fields that are not known here may come, from a later publisher, and stay where an earlier one signs
    them again: what no robot may miss raises :data:`SCHEMA_VERSION`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class Rollout(_Model):
    """To how many of the robots, in percent, and the salt that chooses them."""

    percent: Annotated[float, Field(ge=0, le=100)]
    salt: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Budgets(_Model):
    """What a candidate may take on the robot; None: anything.

    Attributes:
        latency_p99_ms: of one frame, encode and predict (see :mod:`jepa_runtime.ota.gate.latency_budget`).
        peak_memory_mb: of the process that tries it.
        max_error_ratio: its mean prediction score over that of what serves now (see
            :mod:`jepa_runtime.ota.gate.sequential_test` for the score). The default is above what equal
            models were found to have, and well below what cost goals (benchmarks/gate.py).
    """

    latency_p99_ms: Annotated[float, Field(gt=0)] | None = None
    peak_memory_mb: Annotated[float, Field(gt=0)] | None = None
    max_error_ratio: Annotated[float, Field(gt=0)] | None = 1.25


class Delta(_Model):
    """A way to make one file of the release from one that the robot has.

    Attributes:
        path: the file within the bundle.
        base_sha256: of the file that it starts from.
        target: the delta's path in the repository.
        bytes: its size.
    """

    path: BundlePath
    base_sha256: Sha256
    target: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    bytes: Annotated[int, Field(ge=1, le=1 << 40)]


class Release(_Model):
    """The content of ``latest.json`` and of ``releases/VERSION.json``.

    Attributes:
        release_seq: rises with every release of the model in this channel.
        folder: of the bundle's files in the repository.
        manifest_sha256: of its manifest, and with it of everything.
        runtime_abi: the lowest and the highest :data:`RUNTIME_ABI` that serve it rightly.
        hardware_ids: the kinds of robot it is for; ``any``: all.
        interface, variants, golden_sha256: see :func:`told_of`; of the last two an older publisher tells
            nothing.
        deltas: offered beside the files.
        revoked: releases of this model that no robot is to run any more.
        revoked_manifests: SHA-256 of the manifests that only such releases have: a model that came with the
            robot does not know under which number it was released.
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
                raise ValueError(f"{path!r} is no plain relative path")
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
        """What people are told."""
        return f"release {self.release_seq} ({self.version})"


@dataclass(frozen=True)
class Robot:
    """What a release is compared with.

    Attributes:
        hardware_ids: what it is.
        engine, precision: that will serve; precision None: any.
        interface: that its software expects; None: any.
    """

    hardware_ids: tuple[str, ...]
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    interface: str | None = None


def pointer_path(channel: str, model_id: str) -> str:
    """Where a channel says which release of a model is its latest."""
    return f"models/{channel}/{model_id}/{POINTER_NAME}"


def release_path(channel: str, model_id: str, version: str) -> str:
    """Path of the last pointer to a version of a model."""
    return f"models/{channel}/{model_id}/releases/{version}.json"


def parse_release(content: bytes, where: str = POINTER_NAME) -> Release:
    """Read ``latest.json`` or ``releases/VERSION.json``.

    Raises:
        TrustError: it is too long, no strict JSON, of an unknown version, or a field is wrong.
    """
    if len(content) > MAX_POINTER_BYTES:
        raise TrustError(f"{where}: more than {MAX_POINTER_BYTES >> 10} KiB: this names no release")
    try:
        fields = parse_json(content, where)
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version == SCHEMA_VERSION:
            return validate_json(Release, content, where)
    except StrictJsonError as error:
        raise TrustError(str(error), code="trust.release_invalid") from error
    raise TrustError(
        f"{where}: format version {str(version)[:80]} is unknown, this jepa-edge reads version "
        f"{SCHEMA_VERSION}: update jepa-edge",
        code="trust.version_unsupported",
    )


def told_of(manifest: Manifest) -> dict[str, Any]:
    """What a release says of its bundle, so that a robot need not fetch it to know.

    Returns:
        ``interface``: see :func:`interface_of`; ``variants``: the engines and precisions that its graphs are
        for, as TARGET/PRECISION; ``golden_sha256``: of the outputs that it is to reproduce.
    """
    golden = next(record for record in manifest.files if record.path == manifest.golden.path)
    variants = dict.fromkeys(f"{graph.target}/{graph.precision}" for graph in manifest.graphs.encoder)
    return {
        "interface": interface_of(manifest),
        "variants": tuple(variants),
        "golden_sha256": golden.sha256,
    }


def interface_of(manifest: Manifest) -> str:
    """A digest of what a robot's software relies on: the actions, their units, limits and duration, and how
    many steps of future it is given. Latents may change; whoever reads them is told."""
    relied_on = manifest.io.action.model_dump(mode="json") | {
        "step_s": manifest.io.step_s,
        "horizon": manifest.horizon,
    }
    return hashlib.sha256(json.dumps(relied_on, sort_keys=True).encode()).hexdigest()


def left_out(release: Release, device_id: str) -> str:
    """That a release has not been rolled out to a robot; empty: it has.

    A robot needs to ask nobody, decides the same every time, and stays in when the part grows.
    """
    text = f"{release.rollout.salt}|{release.release_seq}|{device_id}"
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    if 100 * draw < release.rollout.percent:
        return ""
    percent = f"{release.rollout.percent:g} % of the robots"
    return f"{release.name} has been rolled out to {percent}, not to this one"


def check_meant(release: Release, robot: Robot) -> None:
    """Check that a release is for this robot; whether it has been rolled out to it is another question.

    Raises:
        ReleaseRejectedError: it is not; the message says why.
    """
    what = f"release {release.release_seq} of {release.model_id}"
    low, high = release.runtime_abi
    if not low <= RUNTIME_ABI <= high:
        mend = "update jepa-edge" if low > RUNTIME_ABI else "publish the model for this jepa-edge"
        raise ReleaseRejectedError(
            f"{what} needs a runtime ABI from {low} to {high}, this one has {RUNTIME_ABI}: {mend}"
        )
    if "any" not in release.hardware_ids and not set(release.hardware_ids) & set(robot.hardware_ids):
        raise ReleaseRejectedError(
            f"{what} is for {', '.join(release.hardware_ids)}; this robot is {', '.join(robot.hardware_ids)}"
        )
    if robot.interface is not None and release.interface != robot.interface:
        raise ReleaseRejectedError(
            f"{what} has other actions, limits or steps than what this robot's software was set up for: "
            "update that software first, then allow the new interface (--any-interface)"
        )
