"""Images of a recorded ROS 2 bag (MCAP or SQLite), and the commands beside them, read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging.conversion import image_in
from jepa_runtime.sources.bag_file import IMAGE_TYPES, BagFile, is_camera, stamp_of
from jepa_runtime.sources.base import Frame, PassiveSource
from jepa_runtime.sources.command_topic import CommandTopic
from jepa_runtime.sources.commands import MAX_AGE_S

_RATE_SAMPLES = 60


class BagSource(PassiveSource):
    """The images of one topic, with the stamps and frame ids they were recorded with.

    Args:
        path: an ``.mcap`` or ``.db3`` file, or a rosbag2 folder.
        topic: which image topic; may be left out where the bag has only one beside those of goals.
        action: the topic of the commands that the robot executed, and which of its numbers are the action
            (see :class:`~jepa_runtime.sources.command_topic.CommandTopic`). All of them are read when the bag
            is opened. None: nothing is known about actions.
        max_age_s: how long a command holds if no other follows.

    Attributes:
        commands: the commands; None where no ``action`` was asked for.

    Raises:
        SourceError: not a bag, cut off, no images in it, or several topics to choose from (they are listed);
            no such action, or one that is not made of the same finite numbers throughout.
    """

    def __init__(
        self,
        path: Path,
        *,
        topic: str | None = None,
        action: str | None = None,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._stamp_ns: int | None = None
        self._bag = BagFile(path)
        try:
            self._connections = choose_images(self._bag, topic, option="?topic=NAME")
            self.rate_hz = self._measure_rate()
            if action is not None:
                self.commands = CommandTopic(self._bag, action).read_all(max_age_s)
        except BaseException:
            self.close()
            raise
        self.name = f"{path}?topic={self._connections[0].topic}"

    @property
    def command(self) -> NDArray[np.float32] | None:
        """The command [A] executed from the last frame's stamp on: the last one at or before it."""
        if self.commands is None or self._stamp_ns is None:
            return None
        return self.commands.at(self._stamp_ns)

    def frames(self) -> Iterator[Frame]:
        """The images.

        Raises:
            SourceError: a message cannot be decoded, or at no image it was known what was executed.
        """
        known = False
        for sequence, (connection, log_ns, raw) in enumerate(self._bag.messages(self._connections)):
            frame = read_frame(self._bag, connection, log_ns, raw, sequence)
            self._stamp_ns = frame.stamp_ns
            known = known or self.command is not None
            yield frame
        if self.commands is not None and self._stamp_ns is not None and not known:
            raise SourceError(
                f"{self.name}: at no image is it known what was executed: images until "
                f"{self._stamp_ns / 1e9:.3f} s, commands from {self.commands.stamps_ns[0] / 1e9:.3f} s to "
                f"{self.commands.stamps_ns[-1] / 1e9:.3f} s; were they stamped by different clocks?"
            )

    def close(self) -> None:
        """Close the file."""
        self._bag.close()

    def _measure_rate(self) -> float | None:
        messages = self._bag.messages(self._connections)
        stamps = [stamp for (_, stamp, _), _ in zip(messages, range(_RATE_SAMPLES), strict=False)]
        periods = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        return 1e9 / median(periods) if periods else None


def choose_images(bag: BagFile, topic: str | None, *, option: str) -> list[Connection]:
    """Where a bag has the images of one camera.

    Args:
        topic: of them; None: the only one.
        option: by which the user names one.

    Raises:
        SourceError: there is no such topic, or several and none was named.
    """
    cameras = [entry for entry in bag.connections if is_camera(entry)]
    topics = sorted({entry.topic for entry in cameras})
    if topic is None and len(topics) == 1:
        return cameras
    # An image of a goal is shown too, to who asks for it by its name.
    chosen = [entry for entry in bag.on({topic}) if entry.msgtype in IMAGE_TYPES]
    if chosen:
        return chosen
    listed = ", ".join(topics)
    if topic is None and topics:
        raise SourceError(f"{bag.path}: several image topics, choose one with {option}: {listed}")
    if topics:
        raise SourceError(f"{bag.path}: no image on topic {topic}; image topics: {listed}")
    raise SourceError(f"{bag.path}: no images in this bag; its topics: {bag.listed()}")


def read_frame(bag: BagFile, connection: Connection, log_ns: int, raw: bytes, sequence: int) -> Frame:
    """The frame in a message of a bag.

    Raises:
        SourceError: it cannot be decoded.
    """
    message = bag.deserialize(connection, raw, sequence)
    try:
        image = image_in(message)
    except FrameError as error:
        raise SourceError(f"{bag.path}: image {sequence} cannot be used: {error}") from error
    return Frame(image, stamp_of(message, log_ns), message.header.frame_id, sequence)
