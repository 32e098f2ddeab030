"""Reader of the commands on one topic of a bag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rosbags.interfaces import Connection

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.bag_file import BagFile, message_stamp_ns
from jepa_runtime.sources.command_fields import CommandFields
from jepa_runtime.sources.commands import MAX_AGE_S, Commands

# Their header has the stamp of the image of the plan, which is earlier than the command.
_LOGGED_WHEN_EXECUTED = {"jepa_msgs/msg/PlannerStatus"}


class CommandTopic:
    """Reads commands one by one, or all.

    Args:
        bag: The bag.
        action: The topic, and the fields that are the action: ``/cmd_vel:linear.x,angular.z`` (see
            :mod:`jepa_runtime.sources.command_fields`).
        check: Called with the fields when the first command is read. It may raise ValueError.

    Raises:
        SourceError: The bag has no such topic.
    """

    def __init__(
        self, bag: BagFile, action: str, check: Callable[[CommandFields], None] = lambda _: None
    ) -> None:
        self._bag = bag
        self.topic, _, fields = action.partition(":")
        self._selected = fields.split(",") if fields else []
        self._fields: CommandFields | None = None
        self._check = check
        self._count = 0
        self.connections = bag.connections_on({self.topic})
        if not self.connections:
            raise SourceError(
                f"{bag.path}: no commands on topic {self.topic}; its topics: {bag.describe_topics()}",
                code="source.topic_not_found",
            )

    def read(self, connection: Connection, log_ns: int, raw: bytes) -> tuple[int, list[float]]:
        """Return the time from which the next command is in force [ns], and its components.

        The time is the stamp in its header or, if its type has none, its recording time.

        Raises:
            SourceError: Its numbers are not those of the commands before.
        """
        message = self._bag.deserialize(connection, raw, self._count)
        try:
            if self._fields is None:
                fields = CommandFields(connection.msgtype, self._selected, message)
                self._check(fields)
                self._fields = fields
            values = self._fields.read(message)
        except ValueError as error:
            raise SourceError(
                f"{self._bag.path}: command {self._count} on {self.topic}: {error}",
                code="source.command_invalid",
            ) from error
        self._count += 1
        executed = connection.msgtype in _LOGGED_WHEN_EXECUTED
        return log_ns if executed else message_stamp_ns(message, log_ns), values

    def read_all(self, max_age_s: float = MAX_AGE_S) -> Commands:
        """Read all commands; each is in force for ``max_age_s`` if no other follows.

        Raises:
            SourceError: Their numbers are not finite or change in count, or their stamps decrease.
        """
        read = [self.read(*entry) for entry in self._bag.messages(self.connections)]
        assert self._fields is not None
        stamps, values = np.array([stamp for stamp, _ in read]), np.array([value for _, value in read])
        try:
            return Commands(self._fields.names, self._fields.units, stamps, values, max_age_s=max_age_s)
        except ValueError as error:
            raise SourceError(
                f"{self._bag.path}: topic {self.topic}: {error}", code="source.command_invalid"
            ) from error
