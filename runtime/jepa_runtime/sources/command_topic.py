"""The commands on one topic of a bag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rosbags.interfaces import Connection

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.bag_file import BagFile, stamp_of
from jepa_runtime.sources.command_fields import CommandFields
from jepa_runtime.sources.commands import MAX_AGE_S, Commands

# Its header bears the stamp of the image that was planned on, which is before the command.
_LOGGED_WHEN_EXECUTED = {"jepa_msgs/msg/PlannerStatus"}


class CommandTopic:
    """Reads commands one by one, or all.

    Args:
        bag: that holds them.
        action: the topic, and which of its numbers are the action: ``/cmd_vel:linear.x,angular.z`` (see
            :mod:`jepa_runtime.sources.command_fields`).
        check: is told what a command consists of when the first is read, and may refuse it.

    Raises:
        SourceError: the bag has no such topic.
    """

    def __init__(
        self, bag: BagFile, action: str, check: Callable[[CommandFields], None] = lambda _: None
    ) -> None:
        self._bag = bag
        self.topic, _, listed = action.partition(":")
        self._listed = listed.split(",") if listed else []
        self._fields: CommandFields | None = None
        self._check = check
        self._count = 0
        self.connections = bag.on({self.topic})
        if not self.connections:
            raise SourceError(f"{bag.path}: no commands on topic {self.topic}; its topics: {bag.listed()}")

    def read(self, connection: Connection, log_ns: int, raw: bytes) -> tuple[int, list[float]]:
        """The next command: from when on it counts [ns], and its components.

        It counts from the stamp in its header on, or, where its type has none, from when it was recorded.

        Raises:
            SourceError: it is not made of the same finite numbers as those before.
        """
        message = self._bag.deserialize(connection, raw, self._count)
        try:
            if self._fields is None:
                fields = CommandFields(connection.msgtype, self._listed, message)
                self._check(fields)
                self._fields = fields
            values = self._fields.read(message)
        except ValueError as error:
            raise SourceError(f"{self._bag.path}: command {self._count} on {self.topic}: {error}") from error
        self._count += 1
        executed = connection.msgtype in _LOGGED_WHEN_EXECUTED
        return log_ns if executed else stamp_of(message, log_ns), values

    def read_all(self, max_age_s: float = MAX_AGE_S) -> Commands:
        """All of them over time; each holds for ``max_age_s`` if no other follows.

        Raises:
            SourceError: one is not made of the same finite numbers throughout, or their stamps go back.
        """
        read = [self.read(*entry) for entry in self._bag.messages(self.connections)]
        assert self._fields is not None
        stamps, values = np.array([stamp for stamp, _ in read]), np.array([value for _, value in read])
        try:
            return Commands(self._fields.names, self._fields.units, stamps, values, max_age_s=max_age_s)
        except ValueError as error:
            raise SourceError(f"{self._bag.path}: topic {self.topic}: {error}") from error
