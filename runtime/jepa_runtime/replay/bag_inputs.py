"""The inputs of a model in a bag, in order: images, commands, states, goals and candidates."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.recording.messages import ACTION_CANDIDATES, TWIST, TWIST_STAMPED, from_time
from jepa_runtime.recording.run_recording import STATE_TOPIC
from jepa_runtime.replay.names import NONE
from jepa_runtime.sources.bag import image_connections, read_frame
from jepa_runtime.sources.bag_file import BagFile, is_goal_topic
from jepa_runtime.sources.base import Frame, Image
from jepa_runtime.sources.command_topic import CommandTopic
from jepa_runtime.sources.commands import Commands
from jepa_runtime.sources.message_fields import MessageFields, action_mismatch, state_mismatch
from jepa_runtime.sources.state_topics import StateTopics
from jepa_runtime.util.state_parts import MeasuredState

_TWISTS = {TWIST, TWIST_STAMPED}


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Topics of the inputs; None: the only such topic, ``none``: no input of this kind.

    Attributes:
        image: Topic of the camera.
        action: Topic of the commands, and the fields that form the action (``/cmd_vel:linear.x,angular.z``);
            None: the only Twist named ``cmd_vel``. The fields of a Twist default to the model's action names.
        goal: Topic of goal images; None: the only one named ``goal_image``.
        candidates: Topic of jepa_msgs/ActionCandidates.
        state: Topics of the robot's state, and their fields (see
            :class:`~jepa_runtime.sources.state_topics.StateTopics`); None: that of recordings of a run. Not
            used if the model reads none.
    """

    image: str | None = None
    action: str | None = None
    goal: str | None = None
    candidates: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """An action [A] in SI units, executed from ``stamp_ns`` on."""

    stamp_ns: int
    action: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal image, uint8 [h, w, 3] RGB; None: no goal."""

    stamp_ns: int
    image: Image | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A jepa_msgs/ActionCandidates."""

    message: Any


Content = Frame | Command | MeasuredState | Goal | Proposal


@dataclass(frozen=True, slots=True)
class Input:
    """One message: its content, and its raw form in the bag."""

    content: Content
    log_ns: int
    topic: str
    type_name: str
    raw: bytes


class _Kind(IntEnum):
    """Order of messages with the same log time: everything precedes the image."""

    GOAL = 0
    CANDIDATES = 1
    COMMAND = 2
    STATE = 3
    IMAGE = 4


class BagInputs:
    """The inputs in a bag, for one model.

    Attributes:
        count: Number of images.

    Raises:
        SourceError: The file is not a bag or is truncated, a topic is missing, or the choice is ambiguous.
    """

    def __init__(self, path: Path, manifest: Manifest, topics: Topics | None = None) -> None:
        self.path = path
        self._manifest = manifest
        self._bag = BagFile(path)
        chosen = Topics() if topics is None else topics
        try:
            self._images = image_connections(self._bag, chosen.image, option="--topic")
            self._action = self._choose_action(chosen.action)
            self._state = self._choose_state(chosen.state)
            goals = self._choose(chosen.goal, is_goal_topic, "goal images", "--goal")
            candidates = self._choose(chosen.candidates, _is_candidates, "candidates", "--candidates")
        except BaseException:
            self.close()
            raise
        self.count = sum(entry.msgcount for entry in self._images)
        commands, states = self._commands(), self._states()
        by_kind = {
            _Kind.GOAL: goals,
            _Kind.CANDIDATES: candidates,
            _Kind.COMMAND: [] if commands is None else commands.connections,
            _Kind.STATE: [] if states is None else states.connections,
            _Kind.IMAGE: self._images,
        }
        self._kinds = {entry.topic: kind for kind, entries in by_kind.items() for entry in entries}
        self._connections = [entry for entries in by_kind.values() for entry in entries]

    def stamps_ns(self) -> NDArray[np.int64]:
        """Return the stamp of each image in recording order, without decoding images.

        Raises:
            SourceError: The bag is damaged.
        """
        return np.array([_stamp(raw, log_ns) for _, log_ns, raw in self._bag.messages(self._images)])

    def commands(self) -> Commands | None:
        """Return all commands over time; None if there are none.

        Raises:
            SourceError: They are not commands of this model.
        """
        commands = self._commands()
        return None if commands is None else commands.read_all()

    def read(self, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Input]:
        """Yield all inputs in recording order.

        Args:
            wanted: Whether to yield image number ``index`` (from 0); others are not decoded.

        Raises:
            SourceError: A message cannot be read, or is not a command of this model.
        """
        commands, states = self._commands(), self._states()
        index = -1
        for log_ns, together in groupby(self._bag.messages(self._connections), key=itemgetter(1)):
            for connection, _, raw in sorted(together, key=lambda entry: self._kinds[entry[0].topic]):
                kind = self._kinds[connection.topic]
                if kind is _Kind.IMAGE:
                    index += 1
                    if not wanted(index):
                        continue
                    content: Content = read_frame(self._bag, connection, log_ns, raw, index)
                elif kind is _Kind.COMMAND and commands is not None:
                    stamp_ns, values = commands.read(connection, log_ns, raw)
                    content = Command(stamp_ns, np.array(values, np.float32))
                elif kind is _Kind.STATE and states is not None:
                    state = states.read(connection, log_ns, raw)
                    if state is None:
                        continue
                    content = state
                elif kind is _Kind.GOAL:
                    content = self._goal(connection, raw)
                else:
                    content = Proposal(self._bag.deserialize(connection, raw, index))
                yield Input(content, log_ns, connection.topic, connection.msgtype, raw)

    def frame(self, index: int) -> Frame:
        """Return image number ``index``.

        Raises:
            SourceError: It does not exist or cannot be decoded.
        """
        for number, (connection, log_ns, raw) in enumerate(self._bag.messages(self._images)):
            if number == index:
                return read_frame(self._bag, connection, log_ns, raw, index)
        raise SourceError(f"{self.path}: no image {index}", code="replay.no_such_image")

    def close(self) -> None:
        """Close the file. May be called again."""
        self._bag.close()

    def _goal(self, connection: Connection, raw: bytes) -> Goal:
        message = self._bag.deserialize(connection, raw, 0)
        stamp_ns = from_time(message.header.stamp)
        if message.height == 0 or message.width == 0:
            return Goal(stamp_ns, None)
        try:
            return Goal(stamp_ns, image_from_message(message))
        except FrameError as error:
            raise SourceError(
                f"{self.path}: unusable goal on {connection.topic}: {error}", code="replay.unusable_goal"
            ) from error

    def _choose_action(self, wanted: str | None) -> str | None:
        action = self._manifest.io.action
        topic, _, listed = (wanted or "").partition(":")
        found = self._choose(topic or None, _is_anything if topic else _is_cmd_vel, "commands", "--action")
        if topic == NONE or not self._manifest.takes_actions:
            return None
        if not found:
            raise SourceError(
                f"{self.path}: no commands: there is no Twist on a topic cmd_vel: name the topic of the "
                f"executed "
                f"commands with --action TOPIC[:FIELD,FIELD], or use --action {NONE}; its topics: "
                f"{self._bag.describe_topics()}",
                code="replay.no_commands",
            )
        if not listed and found[0].msgtype in _TWISTS:
            listed = ",".join(action.names)
        return f"{found[0].topic}:{listed}" if listed else found[0].topic

    def _choose_state(self, wanted: str | None) -> str | None:
        spec = self._manifest.io.state
        if spec is None or wanted == NONE:
            return None
        if wanted is None and not self._bag.connections_on({STATE_TOPIC}):
            raise SourceError(
                f"{self.path}: the model reads the measured state of the robot ({', '.join(spec.names)}), "
                f"and there is no topic {STATE_TOPIC}: name the topics of the state with --state "
                f"'TOPIC[:FIELD,FIELD];TOPIC', or use --state {NONE} for latents alone; its topics: "
                f"{self._bag.describe_topics()}",
                code="replay.no_states",
            )
        return wanted or STATE_TOPIC

    def _choose(
        self, wanted: str | None, fits: Callable[[Connection], bool], what: str, option: str
    ) -> list[Connection]:
        if wanted == NONE:
            return []
        among = self._bag.connections if wanted is None else self._bag.connections_on({wanted})
        fitting = [entry for entry in among if fits(entry)]
        if wanted is not None and not fitting:
            raise SourceError(
                f"{self.path}: no {what} on topic {wanted}; its topics: {self._bag.describe_topics()}",
                code="replay.no_such_topic",
            )
        topics = sorted({entry.topic for entry in fitting})
        if len(topics) > 1:
            raise SourceError(
                f"{self.path}: several topics with {what}: choose one with {option}: {', '.join(topics)}",
                code="replay.ambiguous_topic",
            )
        return fitting

    def _commands(self) -> CommandTopic | None:
        return None if self._action is None else CommandTopic(self._bag, self._action, self._check)

    def _states(self) -> StateTopics | None:
        return None if self._state is None else StateTopics(self._bag, self._state, check=self._check_state)

    def _check_state(self, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        spec = self._manifest.io.state
        reason = None if spec is None else state_mismatch(names, units, spec)
        if reason is not None:
            raise SourceError(
                f"{self.path}: {self._state}: {reason} (--state TOPIC:FIELD,FIELD;TOPIC:FIELD)",
                code="replay.state_mismatch",
            )

    def _check(self, given: MessageFields) -> None:
        reason = action_mismatch(given.names, given.units, self._manifest.io.action)
        if reason is not None:
            raise SourceError(
                f"{self.path}: {self._action}: {reason} (--action TOPIC:FIELD,FIELD)",
                code="replay.action_mismatch",
            )


def _is_anything(_: Connection) -> bool:
    return True


def _is_candidates(connection: Connection) -> bool:
    return connection.msgtype == ACTION_CANDIDATES


def _is_cmd_vel(connection: Connection) -> bool:
    return connection.msgtype in _TWISTS and connection.topic.rpartition("/")[2] == "cmd_vel"


def _stamp(raw: bytes, log_ns: int) -> int:
    """Return the stamp at the start of every image message, after four bytes that state the byte order."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(sec) * 1_000_000_000 + int(nanosec) or log_ns
