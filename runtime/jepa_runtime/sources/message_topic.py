"""Reader of the numbers in the messages on one topic of a bag."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from rosbags.interfaces import Connection

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.bag_file import BagFile, message_stamp_ns
from jepa_runtime.sources.message_fields import MessageFields


class MessageTopic(ABC):
    """Reads messages one by one.

    Args:
        bag: The bag.
        spec: The topic, and the fields: ``/cmd_vel:linear.x,angular.z`` (see
            :mod:`jepa_runtime.sources.message_fields`).
        check: Called with the fields when the first message is read. It may raise ValueError.

    Raises:
        SourceError: The bag has no such topic.
    """

    # What the messages are.
    kind: str

    def __init__(
        self, bag: BagFile, spec: str, check: Callable[[MessageFields], None] = lambda _: None
    ) -> None:
        self._bag = bag
        self.topic, _, fields = spec.partition(":")
        self._selected = fields.split(",") if fields else []
        self.fields: MessageFields | None = None
        self._check = check
        self._count = 0
        self.connections = bag.connections_on({self.topic})
        if not self.connections:
            raise SourceError(
                f"{bag.path}: no {self.kind}s on topic {self.topic}; its topics: {bag.describe_topics()}",
                code="source.topic_not_found",
            )

    def read(self, connection: Connection, log_ns: int, raw: bytes) -> tuple[int, list[float]]:
        """Return the stamp of the next message [ns], and its numbers.

        The stamp is that in its header or, if its type has none, its recording time.

        Raises:
            SourceError: Its numbers are not those of the messages before.
        """
        message = self._bag.deserialize(connection, raw, self._count)
        try:
            if self.fields is None:
                fields = MessageFields(connection.msgtype, self._selected, message)
                self._check(fields)
                self.fields = fields
            values = self.fields.read(message)
        except ValueError as error:
            raise self.invalid(f"{self.kind} {self._count} on {self.topic}: {error}") from error
        self._count += 1
        return message_stamp_ns(message, log_ns), values

    @abstractmethod
    def invalid(self, reason: str) -> SourceError:
        """Return the error for messages that cannot be used."""
