"""The persistent state of the hawkBit agent: ``hawkbit.json`` in the robot's folder.

The file may be lost without harm: the update state has the active model and the rejections, and the server
repeats requests that are still unanswered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ConfigDict, TypeAdapter

from jepa_runtime.errors import StorageError, StrictJsonError
from jepa_runtime.ota.hawkbit.ddi_messages import ActionId
from jepa_runtime.util import atomic_files
from jepa_runtime.util.strict_json import parse_json_as

MAX_STATE_BYTES = 1 << 20
_MAX_ANSWERS = 16
# Not stored at each poll, which would wear out flash memory.
_REACHED_RESOLUTION = timedelta(hours=1)
_STRICT = ConfigDict(strict=True)

Execution = Literal["proceeding", "download", "downloaded", "scheduled", "closed", "canceled"]
Finished = Literal["none", "success", "failure"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A deployment, as far as it concerns this robot.

    Attributes:
        action: The id of the deployment.
        version: The version to run.
        fetch: Whether the download is allowed yet.
        switch: Whether the switch is allowed yet.
        only_fetch: Whether the order is complete once the release is downloaded and has passed the gate.
        confirmed: Whether the server considers the order confirmed.
    """

    __pydantic_config__ = _STRICT

    action: ActionId
    version: str
    fetch: bool
    switch: bool
    only_fetch: bool
    confirmed: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of an action.

    Attributes:
        execution: The execution state of DDI.
        finished: The result of DDI.
        details: Sentences for the operator of the fleet.
        sent: Whether the server has accepted it, or no longer has the action.
        version: The ordered version, because a server that was set up again reuses action ids; empty:
            unknown.
    """

    __pydantic_config__ = _STRICT

    execution: Execution
    finished: Finished
    details: tuple[str, ...]
    sent: bool = False
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The content of ``hawkbit.json``.

    Attributes:
        order: The order in progress; None: none.
        answers: Answers to the latest actions that ended, by id, the oldest first.
        attributes: The attributes that the server accepted last.
        reached_at: When the server last responded, to within an hour.
    """

    __pydantic_config__ = _STRICT

    schema_version: Literal[1] = 1
    order: Order | None = None
    answers: Mapping[ActionId, Answer] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    reached_at: AwareDatetime | None = None

    def reached(self, now: datetime) -> SavedState:
        """Return the state with the time of a response, unless the stored one is less than an hour old."""
        known = self.reached_at is not None and timedelta() <= now - self.reached_at < _REACHED_RESOLUTION
        return self if known else replace(self, reached_at=now)

    def ordered(self, order: Order) -> SavedState:
        """Return the state with an order in progress, which has no answer yet."""
        others = {one: answer for one, answer in self.answers.items() if one != order.action}
        return replace(self, order=order, answers=others)

    def has_answered(self, action: str, version: str) -> bool:
        """Return whether an action that ordered this version has ended other than by a cancellation."""
        answer = self.answers.get(action)
        return answer is not None and answer.execution != "canceled" and answer.version == version

    def answered(self, action: str, answer: Answer) -> SavedState:
        """Return the state with another answer, which ends the order of that action."""
        others = [(one, answer) for one, answer in self.answers.items() if one != action]
        ends = self.order is not None and self.order.action == action
        return replace(
            self,
            order=None if ends else self.order,
            answers=dict([*others, (action, answer)][-_MAX_ANSWERS:]),
        )


_ADAPTER = TypeAdapter(SavedState)


def save(path: Path, saved: SavedState) -> None:
    """Write the state durably.

    Raises:
        StorageError: The file cannot be written; the previous one stays.
    """
    atomic_files.write(path, json.dumps(_ADAPTER.dump_python(saved, mode="json"), indent=1).encode() + b"\n")


def load(path: Path) -> SavedState:
    """Read the state; return an empty one if there is no file.

    Raises:
        StorageError: The file cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STATE_BYTES)
        return parse_json_as(_ADAPTER, content, str(path))
    except FileNotFoundError:
        return SavedState()
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror}", code="hawkbit.state_unreadable"
        ) from error
    except StrictJsonError as error:
        raise StorageError(
            f"{error}: the file is damaged, and a new one is started", code="hawkbit.state_damaged"
        ) from error
