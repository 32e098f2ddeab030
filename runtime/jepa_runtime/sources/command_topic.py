"""Reader of the commands on one topic of a bag."""

from __future__ import annotations

import numpy as np
from rosbags.interfaces import Connection

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.commands import MAX_AGE_S, Commands
from jepa_runtime.sources.message_topic import MessageTopic

# Their header has the stamp of the image of the plan, which is earlier than the command.
_LOGGED_WHEN_EXECUTED = {"jepa_msgs/msg/PlannerStatus"}


class CommandTopic(MessageTopic):
    """Reads commands one by one, or all; a stamp is the time from which a command is in force."""

    kind = "command"

    def read(self, connection: Connection, log_ns: int, raw: bytes) -> tuple[int, list[float]]:
        stamp_ns, values = super().read(connection, log_ns, raw)
        return log_ns if connection.msgtype in _LOGGED_WHEN_EXECUTED else stamp_ns, values

    def read_all(self, max_age_s: float = MAX_AGE_S) -> Commands:
        """Read all commands; each is in force for ``max_age_s`` if no other follows.

        Raises:
            SourceError: Their numbers are not finite or change in count, or their stamps decrease.
        """
        read = [self.read(*entry) for entry in self._bag.messages(self.connections)]
        assert self.fields is not None
        stamps, values = np.array([stamp for stamp, _ in read]), np.array([value for _, value in read])
        try:
            return Commands(self.fields.names, self.fields.units, stamps, values, max_age_s=max_age_s)
        except ValueError as error:
            raise self.invalid(f"topic {self.topic}: {error}") from error

    def invalid(self, reason: str) -> SourceError:
        return SourceError(f"{self._bag.path}: {reason}", code="source.command_invalid")
