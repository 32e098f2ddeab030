"""Source of the images of a recorded ROS 2 bag, and of its commands, states and odometry, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection

from jepa_runtime.errors import FrameError, OdometryError, SourceError
from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.sources.bag_file import IMAGE_TYPES, BagFile, is_camera_topic, message_stamp_ns
from jepa_runtime.sources.base import Frame, PassiveSource
from jepa_runtime.sources.command_topic import CommandTopic
from jepa_runtime.sources.commands import MAX_AGE_S
from jepa_runtime.sources.odometry_topic import read_odometry
from jepa_runtime.sources.state_topics import StateTopics
from jepa_runtime.util.odometry_history import OdometryHistory, OdometryPose
from jepa_runtime.util.state_parts import MeasuredState

_RATE_SAMPLES = 60


class BagSource(PassiveSource):
    """The images of one topic, with their recorded stamps and frame ids.

    Args:
        path: An ``.mcap`` or ``.db3`` file, or a rosbag2 folder.
        topic: The image topic. It may be omitted if the bag has only one, topics of goals excluded.
        action: The topic of the executed commands, and the fields that are the action (see
            :class:`~jepa_runtime.sources.command_topic.CommandTopic`). All commands are read when the bag is
            opened. None: actions are unknown.
        state: The topics of the robot's measured state, and the fields that are the state (see
            :class:`~jepa_runtime.sources.state_topics.StateTopics`). All states are read when the bag is
            opened. None: states are unknown.
        max_age_s: How long a command is in force if no other follows, and the longest time between messages
            that are joined to a state.
        odometry: The topic of the odometry, all of which is read when the bag is opened. None: poses are
            unknown.

    Attributes:
        commands: The commands; None without ``action``.
        states: The states; None without ``state``.

    Raises:
        SourceError: The path is not a bag, the bag is truncated, has no images, or has several image topics
            (the message lists them); the action or the state does not exist, or its numbers are not finite or
            change in count; or the odometry does not exist or is invalid.
    """

    def __init__(
        self,
        path: Path,
        *,
        topic: str | None = None,
        action: str | None = None,
        state: str | None = None,
        max_age_s: float = MAX_AGE_S,
        odometry: str | None = None,
    ) -> None:
        self._stamp_ns: int | None = None
        self._odometry: OdometryHistory | None = None
        self._bag = BagFile(path)
        try:
            self._connections = image_connections(self._bag, topic, option="?topic=NAME")
            self.rate_hz = self._measure_rate()
            if action is not None:
                self.commands = CommandTopic(self._bag, action).read_all(max_age_s)
            if state is not None:
                self.states = StateTopics(self._bag, state, max_age_s=max_age_s).read_all()
            if odometry is not None:
                self._odometry = read_odometry(self._bag, odometry)
        except BaseException:
            self.close()
            raise
        self.name = f"{path}?topic={self._connections[0].topic}"

    @property
    def command(self) -> NDArray[np.float32] | None:
        """The command [A] in force from the stamp of the last frame on."""
        if self.commands is None or self._stamp_ns is None:
            return None
        return self.commands.at(self._stamp_ns)

    @property
    def state(self) -> MeasuredState | None:
        """The state measured nearest to the stamp of the last frame."""
        if self.states is None or self._stamp_ns is None:
            return None
        return self.states.nearest(self._stamp_ns)

    @property
    def pose(self) -> OdometryPose | None:
        """The pose by odometry at the last frame."""
        if self._odometry is None or self._stamp_ns is None:
            return None
        try:
            return self._odometry.at(self._stamp_ns)
        except OdometryError:
            return None

    def frames(self) -> Iterator[Frame]:
        """The images.

        Raises:
            SourceError: a message cannot be decoded, or at no image it was known what was executed, or
            where the robot was.
        """
        known = located = False
        for sequence, (connection, log_ns, raw) in enumerate(self._bag.messages(self._connections)):
            frame = read_frame(self._bag, connection, log_ns, raw, sequence)
            self._stamp_ns = frame.stamp_ns
            known = known or self.command is not None
            located = located or self.pose is not None
            yield frame
        if self.commands is not None and self._stamp_ns is not None and not known:
            raise SourceError(
                f"{self.name}: no image has a command in force: images until {self._stamp_ns / 1e9:.3f} s, "
                f"commands from {self.commands.stamps_ns[0] / 1e9:.3f} s to "
                f"{self.commands.stamps_ns[-1] / 1e9:.3f} s: check that both use the same clock",
                code="source.commands_unmatched",
            )
        if self._odometry is not None and self._stamp_ns is not None and not located:
            raise SourceError(
                f"{self.name}: no image has odometry around its stamp: check that both use the same clock",
                code="source.odometry_unmatched",
            )

    def close(self) -> None:
        """Close the file."""
        self._bag.close()

    def _measure_rate(self) -> float | None:
        messages = self._bag.messages(self._connections)
        stamps = [stamp for (_, stamp, _), _ in zip(messages, range(_RATE_SAMPLES), strict=False)]
        periods = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        return 1e9 / median(periods) if periods else None


def image_connections(bag: BagFile, topic: str | None, *, option: str) -> list[Connection]:
    """Return the connections with the images of one camera.

    Args:
        bag: The bag.
        topic: The topic; None: the only one.
        option: The command-line option that selects the topic, for the message.

    Raises:
        SourceError: The topic does not exist, or there are several and none was selected.
    """
    cameras = [entry for entry in bag.connections if is_camera_topic(entry)]
    topics = sorted({entry.topic for entry in cameras})
    if topic is None and len(topics) == 1:
        return cameras
    # A topic of goals can be selected by name.
    chosen = [entry for entry in bag.connections_on({topic}) if entry.msgtype in IMAGE_TYPES]
    if chosen:
        return chosen
    listed = ", ".join(topics)
    if topic is None and topics:
        raise SourceError(
            f"{bag.path}: several image topics: {listed}: choose one with {option}",
            code="source.topic_ambiguous",
        )
    if topics:
        raise SourceError(
            f"{bag.path}: no images on topic {topic}; image topics: {listed}", code="source.topic_not_found"
        )
    raise SourceError(
        f"{bag.path}: no images in this bag; its topics: {bag.describe_topics()}",
        code="source.topic_not_found",
    )


def read_frame(bag: BagFile, connection: Connection, log_ns: int, raw: bytes, sequence: int) -> Frame:
    """Return the frame in a message of a bag.

    Raises:
        SourceError: It cannot be decoded.
    """
    message = bag.deserialize(connection, raw, sequence)
    try:
        image = image_from_message(message)
    except FrameError as error:
        raise SourceError(
            f"{bag.path}: image {sequence} cannot be used: {error}", code="source.image_invalid"
        ) from error
    return Frame(image, message_stamp_ns(message, log_ns), message.header.frame_id, sequence)
