"""What an agent of hawkBit must not forget: ``hawkbit.json`` in the robot's folder.

If it is lost, nothing is: what serves, and what was refused, the state of the updates knows, and what the
server still wants answered it asks again.
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

MAX_KEPT_BYTES = 1 << 20
_MAX_ANSWERS = 16
# Not at each poll: a disk of flash wears out.
_WITHIN = timedelta(hours=1)
_STRICT = ConfigDict(strict=True)

Execution = Literal["proceeding", "download", "downloaded", "scheduled", "closed", "canceled"]
Finished = Literal["none", "success", "failure"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A deployment, as far as it concerns this robot.

    Attributes:
        action: its id.
        version: that is to run.
        fetch: whether it may be fetched yet.
        switch: whether it may be switched to yet.
        only_fetch: it is never to be switched to: it has been carried out once it is here and has passed.
        confirmed: whether the server holds it for agreed to.
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
    """How an action ended.

    Attributes:
        sent: whether the server has taken it, or has no such action any more.
        version: that it had ordered, since a server that is set up anew numbers its actions anew; empty: none
            was told.
    """

    __pydantic_config__ = _STRICT

    execution: Execution
    finished: Finished
    details: tuple[str, ...]
    sent: bool = False
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """All of it.

    Attributes:
        order: in work; None: none is.
        answers: to the last actions that ended, by their ids, the oldest first.
        attributes: that the server has taken last.
        reached_at: when the server answered, to within an hour.
    """

    __pydantic_config__ = _STRICT

    schema_version: Literal[1] = 1
    order: Order | None = None
    answers: Mapping[ActionId, Answer] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    reached_at: AwareDatetime | None = None

    def reached(self, now: datetime) -> SavedState:
        """With the moment at which the server answered, unless one within the hour is there."""
        known = self.reached_at is not None and timedelta() <= now - self.reached_at < _WITHIN
        return self if known else replace(self, reached_at=now)

    def ordered(self, order: Order) -> SavedState:
        """With an order in work, which has no answer yet."""
        others = {one: told for one, told in self.answers.items() if one != order.action}
        return replace(self, order=order, answers=others)

    def has_answered(self, action: str, version: str) -> bool:
        """Whether an action that ordered this version has ended, but not by being cancelled."""
        answer = self.answers.get(action)
        return answer is not None and answer.execution != "canceled" and answer.version == version

    def answered(self, action: str, answer: Answer) -> SavedState:
        """With one more answer; an order that it ends is no longer in work."""
        others = [(one, told) for one, told in self.answers.items() if one != action]
        ends = self.order is not None and self.order.action == action
        return replace(
            self,
            order=None if ends else self.order,
            answers=dict([*others, (action, answer)][-_MAX_ANSWERS:]),
        )


_ADAPTER = TypeAdapter(SavedState)


def save(path: Path, kept: SavedState) -> None:
    """Write it; when this returns, it is on the disk.

    Raises:
        StorageError: it cannot be written; the one before it stays.
    """
    atomic_files.write(path, json.dumps(_ADAPTER.dump_python(kept, mode="json"), indent=1).encode() + b"\n")


def load(path: Path) -> SavedState:
    """Read it; empty where there is none.

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEPT_BYTES)
        return parse_json_as(_ADAPTER, content, str(path))
    except FileNotFoundError:
        return SavedState()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except StrictJsonError as error:
        raise StorageError(
            f"{error}: the file is damaged, and is created again", code="hawkbit.state_damaged"
        ) from error
