"""What must survive a restart: the update in work, what serves, floors against older releases, and refusals.

The file is replaced as a whole and carries a checksum, so that what is read is what was written. If it is
lost, the slots still tell what serves; refusals are then forgotten, and the floors are those of the metadata
alone.

Fields that are not known here are those of a later version that was taken back, and are forgotten: what must
not be raises ``schema_version``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import auto
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, TypeAdapter

from jepa_runtime.errors import StorageError, StrictJsonError
from jepa_runtime.ota.release import Release
from jepa_runtime.util import atomic_files
from jepa_runtime.util.compat import StrEnum
from jepa_runtime.util.strict_json import parse_json, validate_json

NAME = "state.json"
MAX_STATE_BYTES = 1 << 22
_REBUILD = "`jepa-runtime update provision --rebuild` makes it again from the slots"
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

# How the last update ended. ``undecided``: the machine was too busy to judge the candidate, which is tried
# again soon. ``reverted``: the active model was rolled back, by hand or because it was revoked.
Result = Literal["none", "updated", "unchanged", "refused", "undecided", "failed", "reverted"]


class Phase(StrEnum):
    """Where an update is; :mod:`~jepa_runtime.ota.state_machine` says what follows what."""

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
    """A release that lies in a slot; ``release_seq`` is 0 for what no channel has offered to this robot."""

    __pydantic_config__ = _STRICT

    channel: str
    model_id: str
    version: str
    release_seq: int
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """The release that is being installed, and the channel that offered it."""

    __pydantic_config__ = _STRICT

    channel: str
    release: Release

    @property
    def installed(self) -> Installed:
        """What it is once it lies in a slot."""
        release = self.release
        return Installed(
            channel=self.channel,
            model_id=release.model_id,
            version=release.version,
            release_seq=release.release_seq,
            manifest_sha256=release.manifest_sha256,
        )

    def revokes(self, installed: Installed | None) -> bool:
        """Whether the release says that no robot is to run this one any more, which it never says of its own
        bytes, whatever number they had before."""
        release = self.release
        if installed is None or installed.manifest_sha256 == release.manifest_sha256:
            return False
        if installed.manifest_sha256 in release.revoked_manifests:
            return True
        same = (installed.channel, installed.model_id) == (self.channel, release.model_id)
        return same and installed.release_seq in release.revoked


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a release is not wanted, how often it was refused, and when it is tried again; None: never.

    Attributes:
        undecided: how often in a row the machine was too busy to judge it; 0: it was refused.
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
        work: the release in work; None between updates, and where it was dropped.
        attempts: failed or interrupted ones of each phase, in this update.
        waits: how often there was no moment to switch safely, in this update.
        transitions: from phase to phase, in this update.
        stopped: whether it was asked to stop, which is no failed attempt.
        watched: whether somebody served who could be watched, when this update switched.
        approved: the SHA-256 of the manifest that may be switched to, in this update; empty: none.
        result, reason: of the update in work as far as known, or of the last one.
        alarm: what needs a person; empty: nothing.
        current: what serves. good: what served well, and is gone back to. previous: what was good before,
            unless it was seen to be revoked.
        pinned: no update is wanted.
        versions: the highest version seen of each signed role; signed_at: the latest signature seen.
        release_seqs: the highest seen of each ``channel/model``.
        refused: by the SHA-256 of the manifest.
        comparisons: in which it might have been accepted by chance, by the SHA-256 of the manifest.
        checked_at: when the repository was last asked with success.
        failed_looks: at the repository since then.
    """

    __pydantic_config__ = _STRICT

    schema_version: Literal[1] = 1
    phase: Phase = Phase.IDLE
    work: Work | None = None
    attempts: Mapping[Phase, int] = field(default_factory=dict)
    waits: int = 0
    transitions: int = 0
    stopped: bool = False
    watched: bool = False
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
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    comparisons: Mapping[str, int] = field(default_factory=dict)
    checked_at: AwareDatetime | None = None
    failed_looks: int = 0

    @property
    def owes_way_back(self) -> bool:
        """Whether what serves is still to make way for what is good."""
        return self.good not in (None, self.current)

    @property
    def waits_to_go_back(self) -> bool:
        """Whether what serves is to make way once the robot may switch."""
        return self.phase is Phase.RESOLVE and self.waits > 0


_ADAPTER = TypeAdapter(State)


def as_json(state: State) -> dict[str, Any]:
    """The state as JSON has it."""
    fields: dict[str, Any] = _ADAPTER.dump_python(state, mode="json")
    return fields


def save(path: Path, state: State) -> None:
    """Write the state; when this returns, it is on the disk.

    Raises:
        StorageError: it cannot be written; the one before it stays.
    """
    fields = as_json(state)
    content = {"sha256": _checksum(fields), "state": fields}
    atomic_files.write(path, json.dumps(content, indent=1).encode() + b"\n")


def load(path: Path) -> State:
    """Read the state.

    Raises:
        StorageError: it is missing, damaged, or of another format; the message says how to get one again.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: there is no state: set this robot up with `jepa-runtime update provision`, or, if it "
            f"was lost, {_REBUILD}"
        ) from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_STATE_BYTES:
        raise _damaged(path, f"more than {MAX_STATE_BYTES >> 20} MiB")
    try:
        parsed = parse_json(content, str(path))
    except StrictJsonError as error:
        raise _damaged(path, str(error)) from error
    fields = parsed.get("state") if isinstance(parsed, dict) else None
    if not isinstance(fields, dict) or parsed.get("sha256") != _checksum(fields):
        raise _damaged(path, "its checksum is wrong")
    if fields.get("schema_version") != 1:
        raise StorageError(
            f"{path}: is of another version of jepa-edge ({str(fields.get('schema_version'))[:20]}): use "
            f"that one, or {_REBUILD}"
        )
    try:
        return validate_json(_ADAPTER, json.dumps(fields).encode(), "state")
    except StrictJsonError as error:
        raise _damaged(path, str(error)) from error


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(f"{path}: is damaged ({why}); what serves serves on: {_REBUILD}")


def floor_key(channel: str, model_id: str) -> str:
    """Under which name :attr:`State.release_seqs` knows a model in a channel."""
    return f"{channel}/{model_id}"
