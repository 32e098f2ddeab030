"""Reader of the measured states of a robot in a bag, each joined from the messages of one or more topics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rosbags.interfaces import Connection

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.sources.message_topic import MessageTopic
from jepa_runtime.sources.states import States
from jepa_runtime.util.state_parts import MAX_AGE_S, MeasuredState, StateParts


class _StateTopic(MessageTopic):
    kind = "state"

    def invalid(self, reason: str) -> SourceError:
        return SourceError(f"{self._bag.path}: {reason}", code="source.state_invalid")


class StateTopics:
    """Reads states one by one, or all.

    Args:
        bag: The bag.
        spec: The topics, and their fields: ``/pose;/gripper:position.finger`` (see
            :mod:`jepa_runtime.sources.message_fields`). The first determines the stamps of the states.
        max_age_s: See :class:`~jepa_runtime.util.state_parts.StateParts`.
        check: Called with names and units of the components when all are known. It may raise SourceError.

    Raises:
        SourceError: The bag has no such topic, or a topic is given twice.
    """

    def __init__(
        self,
        bag: BagFile,
        spec: str,
        *,
        max_age_s: float = MAX_AGE_S,
        check: Callable[[tuple[str, ...], tuple[str, ...]], None] = lambda names, units: None,
    ) -> None:
        self._bag, self._spec, self._check = bag, spec, check
        self._topics = [_StateTopic(bag, part) for part in spec.split(";")]
        self._index = {
            entry.topic: index for index, topic in enumerate(self._topics) for entry in topic.connections
        }
        if len(self._index) < len(self._topics):
            raise SourceError(
                f"{bag.path}: state={spec}: a topic is given twice: list all of its fields after one colon",
                code="source.option_invalid",
            )
        self.connections = [entry for topic in self._topics for entry in topic.connections]
        self._parts = StateParts(len(self._topics), max_age_s)
        self._checked = False

    def read(self, connection: Connection, log_ns: int, raw: bytes) -> MeasuredState | None:
        """Return the state that the next message completes; None: a part of it is missing.

        Raises:
            SourceError: The message is not valid, or its numbers are not those of the messages before.
        """
        index = self._index[connection.topic]
        topic = self._topics[index]
        stamp_ns, values = topic.read(connection, log_ns, raw)
        try:
            state = self._parts.add(index, stamp_ns, values)
        except ValueError as error:
            raise topic.invalid(f"topic {topic.topic}: {error}") from error
        if state is not None and not self._checked:
            self._check(*self._components())
            self._checked = True
        return state

    def read_all(self) -> States:
        """Read all states.

        Raises:
            SourceError: A message is not valid, the stamps decrease, or there is no state.
        """
        read = [self.read(*entry) for entry in self._bag.messages(self.connections)]
        states = [state for state in read if state is not None]
        if not states:
            raise self._topics[0].invalid(
                f"state={self._spec}: the topics have no messages near the same time: check that their "
                "stamps use one clock"
            )
        stamps = np.array([state.stamp_ns for state in states])
        try:
            return States(*self._components(), stamps, np.stack([state.values for state in states]))
        except ValueError as error:
            raise self._topics[0].invalid(f"topic {self._topics[0].topic}: {error}") from error

    def _components(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        known = [topic.fields for topic in self._topics if topic.fields is not None]
        names = tuple(name for fields in known for name in fields.names)
        return names, tuple(unit for fields in known for unit in fields.units)
