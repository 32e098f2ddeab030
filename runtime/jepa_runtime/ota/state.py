"""The persistent state: the update in progress, the installed models, rollback floors, and rejections.

The file is replaced as a whole and carries a checksum. If it is lost, the slots still identify the active
model; rejections are then lost, and only the floors of the stored metadata remain.

Unknown fields were written by a later version and are ignored after a downgrade: a field that must not be
ignored raises ``schema_version``. A file of version 1 is read as well, until the next change of the state
replaces it by version 2, which names some fields and results differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import auto
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AwareDatetime, ConfigDict, TypeAdapter

from jepa_runtime.errors import StorageError, StrictJsonError
from jepa_runtime.ota.release import Release
from jepa_runtime.util import atomic_files
from jepa_runtime.util.compat import StrEnum
from jepa_runtime.util.strict_json import parse_json, validate_json

NAME = "state.json"
MAX_STATE_BYTES = 1 << 22
_REBUILD = "rebuild it with `jepa-runtime update provision --rebuild`"
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

_SCHEMA_VERSION: Final = 2
_FIELDS_OF_VERSION_1 = {
    "work": "candidate", "watched": "serving_observed", "refused": "rejections",
    "failed_looks": "failed_checks",
}  # fmt: skip
_RESULTS_OF_VERSION_1 = {"refused": "rejected", "reverted": "rolled_back"}

# How the last update ended. ``undecided``: the machine was too busy to assess the candidate, which is retried
# soon. ``rolled_back``: the active model was rolled back, by an operator or because it was revoked.
Result = Literal["none", "updated", "unchanged", "rejected", "undecided", "failed", "rolled_back"]
# What logs and the command line call them; the names above are those of the file format.
RESULT_NAMES: Mapping[Result, str] = {
    "none": "not checked",
    "updated": "updated",
    "unchanged": "nothing installed",
    "rejected": "rejected",
    "undecided": "undecided",
    "failed": "failed",
    "rolled_back": "rolled back",
}


class Phase(StrEnum):
    """The phase of an update; :mod:`~jepa_runtime.ota.state_machine` defines their order."""

    IDLE = auto()
    CHECK = auto()
    RESOLVE = auto()
    DOWNLOAD = auto()
    VERIFY = auto()
    STAGE = auto()
    PROBE = auto()
    SHADOW = auto()
    ARMED = auto()
    SWITCH = auto()
    OBSERVE = auto()
    COMMIT = auto()
    REPORT = auto()
    GC = auto()
    ROLLBACK = auto()
    REJECTED = auto()


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A release in a slot; ``release_seq`` is 0 if no channel has offered it to this robot."""

    __pydantic_config__ = _STRICT

    channel: str
    model_id: str
    version: str
    release_seq: int
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class ChannelRelease:
    """The release that is being installed, and its channel."""

    __pydantic_config__ = _STRICT

    channel: str
    release: Release

    @property
    def installed(self) -> Installed:
        """The release as installed in its slot."""
        release = self.release
        return Installed(
            channel=self.channel,
            model_id=release.model_id,
            version=release.version,
            release_seq=release.release_seq,
            manifest_sha256=release.manifest_sha256,
        )

    def revokes(self, installed: Installed | None) -> bool:
        """Return whether the release revokes an installed one.

        A release never revokes its own bytes, under any release number.
        """
        release = self.release
        if installed is None or installed.manifest_sha256 == release.manifest_sha256:
            return False
        if installed.manifest_sha256 in release.revoked_manifests:
            return True
        same = (installed.channel, installed.model_id) == (self.channel, release.model_id)
        return same and installed.release_seq in release.revoked


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a release is not installed, and until when.

    Attributes:
        reason: The reason of the last rejection.
        times: How often it was rejected.
        not_before: When it is retried; None: never.
        undecided: How often in a row the machine was too busy to assess it; 0: it was rejected.
    """

    __pydantic_config__ = _STRICT

    reason: str
    times: int
    not_before: AwareDatetime | None
    undecided: int = 0


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that an update has to remember.

    Attributes:
        phase: The phase of the update in progress.
        candidate: The release in progress; None between updates, and after it was dropped.
        attempts: Failed or interrupted attempts by phase, in this update.
        waits: How often the update had to wait, in this update.
        transitions: Transitions between phases, in this update.
        stopped: Whether the update was asked to stop, which is no failed attempt.
        serving_observed: Whether a serving process could be observed when this update switched.
        approved: SHA-256 of the manifest whose switch was approved, in this update; empty: none.
        result: Result of the update in progress as far as known, or of the last one.
        reason: Reason for the result.
        alarm: Condition that needs an operator; empty: none.
        current: The active model.
        good: The last known good model, which a rollback restores.
        previous: The last known good model before ``good``, unless it was revoked.
        pinned: Whether updates are disabled.
        versions: Highest version seen of each signed role.
        signed_at: Time of the latest signature seen.
        release_seqs: Highest release number seen of each ``channel/model``.
        rejections: Rejections by SHA-256 of the manifest.
        comparisons: Number of shadow tests that were evaluated, by SHA-256 of the manifest.
        checked_at: Time of the last successful check of the repository.
        failed_checks: Number of failed checks since then.
    """

    __pydantic_config__ = _STRICT

    schema_version: Literal[2] = _SCHEMA_VERSION
    phase: Phase = Phase.IDLE
    candidate: ChannelRelease | None = None
    attempts: Mapping[Phase, int] = field(default_factory=dict)
    waits: int = 0
    transitions: int = 0
    stopped: bool = False
    serving_observed: bool = False
    approved: str = ""
    result: Result = "none"
    reason: str = ""
    alarm: str = ""
    current: Installed | None = None
    good: Installed | None = None
    previous: Installed | None = None
    pinned: bool = False
    versions: Mapping[str, int] = field(default_factory=dict)
    signed_at: AwareDatetime | None = None
    release_seqs: Mapping[str, int] = field(default_factory=dict)
    rejections: Mapping[str, Rejection] = field(default_factory=dict)
    comparisons: Mapping[str, int] = field(default_factory=dict)
    checked_at: AwareDatetime | None = None
    failed_checks: int = 0

    @property
    def rollback_pending(self) -> bool:
        """Whether the active model is still to be replaced by the last known good model."""
        return self.good not in (None, self.current)

    @property
    def waits_to_roll_back(self) -> bool:
        """Whether a rollback waits until the robot allows a model switch."""
        return self.phase is Phase.RESOLVE and self.waits > 0


_ADAPTER = TypeAdapter(State)


def as_json(state: State) -> dict[str, Any]:
    """Return the state as in the JSON file."""
    fields: dict[str, Any] = _ADAPTER.dump_python(state, mode="json")
    return fields


def save(path: Path, state: State) -> None:
    """Write the state durably.

    Raises:
        StorageError: The file cannot be written; the previous one stays.
    """
    fields = as_json(state)
    content = {"sha256": _checksum(fields), "state": fields}
    atomic_files.write(path, json.dumps(content, indent=1).encode() + b"\n")


def load(path: Path) -> State:
    """Read the state.

    Raises:
        StorageError: The file is missing, damaged, or of another format.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: not found: provision this robot with `jepa-runtime update provision`, or, if the file "
            f"was lost, {_REBUILD}",
            code="storage.state_missing",
        ) from None
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror}", code="storage.state_unreadable"
        ) from error
    if len(content) > MAX_STATE_BYTES:
        raise _damaged(path, f"longer than {MAX_STATE_BYTES >> 20} MiB")
    try:
        parsed = parse_json(content, str(path))
    except StrictJsonError as error:
        raise _damaged(path, str(error)) from error
    fields = parsed.get("state") if isinstance(parsed, dict) else None
    if not isinstance(fields, dict) or parsed.get("sha256") != _checksum(fields):
        raise _damaged(path, "wrong checksum")
    if fields.get("schema_version") == 1:
        fields = _upgraded(fields)
    if fields.get("schema_version") != _SCHEMA_VERSION:
        raise StorageError(
            f"{path}: unknown format version {str(fields.get('schema_version'))[:20]}, written by another "
            f"version of jepa-edge: use that version, or {_REBUILD}",
            code="storage.state_version",
        )
    try:
        return validate_json(_ADAPTER, json.dumps(fields).encode(), "state")
    except StrictJsonError as error:
        raise _damaged(path, str(error)) from error


def _upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a file of version 1 as version 2 names them."""
    named = {_FIELDS_OF_VERSION_1.get(name, name): value for name, value in fields.items()}
    result = str(fields.get("result"))
    if result in _RESULTS_OF_VERSION_1:
        named["result"] = _RESULTS_OF_VERSION_1[result]
    return named | {"schema_version": _SCHEMA_VERSION}


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path}: is damaged ({why}): {_REBUILD}; the active model is not affected",
        code="storage.state_damaged",
    )


def floor_key(channel: str, model_id: str) -> str:
    """Return the key of a model of a channel in :attr:`State.release_seqs`."""
    return f"{channel}/{model_id}"
