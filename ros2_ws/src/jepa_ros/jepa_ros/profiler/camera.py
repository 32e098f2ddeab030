"""The camera process of the profiler: publishes images on an exact schedule.

Everything is read, scaled and converted to messages beforehand, so that only publishing happens on the
schedule. The process exchanges JSON lines with the profiler: it sends ``{"ready": …}``, publishes images to
warm up until it receives a :class:`Schedule` ``{"start_ns": …}``, then sends ``[index, time_ns]`` for each
image and waits for the next schedule. It exits when its standard input is closed.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from jepa_ros.common import qos
from jepa_ros.common.action_commands import ActionCommands, create_action_commands
from jepa_ros.common.conversions import to_image, to_time
from jepa_runtime.errors import JepaRuntimeError, ProfileError, SourceError
from jepa_runtime.imaging import resize_into
from jepa_runtime.sources import Frame, Source, open_source
from jepa_runtime.util import ArgumentParser

_MAX_LOADED_BYTES = 128 << 20
# Discovery takes up to 3 s.
_MATCH_TIMEOUT_S = 6.0
_POLL_S = 0.01
_FRAME_ID = "camera"


@dataclass(frozen=True)
class _Shot:
    """Represent an image and the messages that command its action, or none if commands are disabled."""

    image: Image
    command_messages: list[Any]


@dataclass(frozen=True)
class Schedule:
    """Represent the times of ``frames`` images, preceded by ``lead`` warm-up images that fill the history.

    The first counted image is due at ``start_ns`` (CLOCK_MONOTONIC).
    """

    start_ns: int
    rate_hz: float
    frames: int
    lead: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m jepa_ros.profiler.camera``; see :mod:`jepa_ros.nodes.profiler`."""
    options = _parse(arguments)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        _Camera(options).play()
    except JepaRuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except (_InputClosedError, BrokenPipeError):
        return 0
    finally:
        rclpy.try_shutdown()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--offset-ns", type=int, required=True, help="image stamps minus CLOCK_MONOTONIC")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"))
    parser.add_argument("--actions", nargs="*", default=[], help="publish commands with these components")
    return parser.parse_args(arguments)


class _Camera:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._node = Node("profiler_camera")
        self._images = self._node.create_publisher(Image, options.topic, qos.SENSOR)
        self._commands: ActionCommands | None = None
        self._command_publishers: list[Any] = []
        if options.actions:
            self._commands = create_action_commands(options.actions)
            self._command_publishers = self._commands.create_publishers(self._node)
            self._goals = self._node.create_publisher(Image, "goal_image", qos.LATCHED)

    def play(self) -> None:
        """Warm up, then publish one schedule after another."""
        shots = self._load()
        self._await_subscriber()
        image = shots[0].image
        _send({"ready": {"size": [image.width, image.height], "distinct": len(shots)}})
        # A garbage collection over all these messages would delay an image.
        gc.freeze()
        line = self._warm_up(shots)
        while True:
            self._publish_schedule(self._schedule(line), shots)
            line = _read_line(None)

    def _schedule(self, line: str) -> Schedule:
        defaults = {"rate_hz": self._options.rate, "frames": self._options.frames}
        return Schedule(**defaults | json.loads(line))

    def _publish_schedule(self, schedule: Schedule, shots: list[_Shot]) -> None:
        for index in range(-schedule.lead, schedule.frames):
            due_ns = schedule.start_ns + round(index * 1e9 / schedule.rate_hz)
            _sleep((due_ns - time.monotonic_ns()) / 1e9)
            began_ns = self._publish(shots[index % len(shots)], due_ns)
            if index >= 0:
                _send([index, began_ns])

    def _load(self) -> list[_Shot]:
        rate_hz = self._options.rate
        with closing(open_source(self._options.source, rate_hz=rate_hz)) as source:
            if source.live:
                raise SourceError(
                    f"{source.name}: a live device has its own timing: use a video, a folder, a bag or "
                    "two_rooms",
                    code="source.not_repeatable",
                )
            if self._commands is not None and source.goal is not None:
                self._goals.publish(to_image(source.goal, stamp_ns=time.time_ns(), frame_id=_FRAME_ID))
            shots, loaded = [], 0
            for frame in source.frames():
                shots.append(self._shot(frame, source))
                loaded += len(shots[-1].image.data)
                _sleep(0.0)
                if len(shots) == self._options.frames or loaded > _MAX_LOADED_BYTES:
                    break
        if not shots:
            raise SourceError(f"{source.name}: contains no frames", code="source.empty")
        return shots

    def _shot(self, frame: Frame, source: Source) -> _Shot:
        pixels: NDArray[np.uint8] = frame.image
        if self._options.size is not None:
            width, height = self._options.size
            pixels = np.empty((height, width, 3), np.uint8)
            resize_into(frame.image, pixels)
        command_messages: list[Any] = []
        if self._commands is not None:
            size, command = len(self._options.actions), source.command
            # The source may be a recording of another robot.
            if command is None or len(command) != size:
                command = np.zeros(size, np.float32)
            command_messages = self._commands.messages(command, Header())
        return _Shot(to_image(pixels, stamp_ns=0, frame_id=_FRAME_ID), command_messages)

    def _await_subscriber(self) -> None:
        topic = self._images.topic_name
        deadline = time.monotonic() + _MATCH_TIMEOUT_S
        while self._images.get_subscription_count() == 0:
            _sleep(_POLL_S)
            if time.monotonic() > deadline:
                types = dict(self._node.get_topic_names_and_types())
                subscribed = [name for name in types if self._node.count_subscribers(name)]
                images = [name for name in subscribed if "sensor_msgs/msg/Image" in types[name]]
                raise ProfileError(
                    f"topic {topic} has no subscriber: choose another one with --topic; image topics with "
                    f"subscribers: {', '.join(sorted(images)) or 'none'}",
                    code="profile.no_subscriber",
                )

    def _warm_up(self, shots: list[_Shot]) -> str:
        """Publish at the default rate until the first schedule arrives, and return its line."""
        for index in count():
            self._publish(shots[index % len(shots)], time.monotonic_ns())
            line = _read_line(1 / self._options.rate)
            if line:
                break
        return line

    def _publish(self, shot: _Shot, due_ns: int) -> int:
        """Publish an image stamped with its due time; return when publishing began [ns]."""
        shot.image.header.stamp = to_time(due_ns + self._options.offset_ns)
        began_ns = time.monotonic_ns()
        self._images.publish(shot.image)
        for publisher, message in zip(self._command_publishers, shot.command_messages, strict=True):
            publisher.publish(message)
        return began_ns


class _InputClosedError(Exception):
    """The profiler has closed the pipe or has exited."""


def _send(message: Any) -> None:
    print(json.dumps(message), flush=True)


def _read_line(timeout_s: float | None) -> str:
    """Return the next line from the profiler, or an empty string after ``timeout_s`` (None: no timeout)."""
    if not select.select([sys.stdin], [], [], timeout_s and max(0.0, timeout_s))[0]:
        return ""
    line = sys.stdin.readline()
    if not line:
        raise _InputClosedError
    return line


def _sleep(timeout_s: float) -> None:
    """Sleep, or raise as soon as the profiler closes the pipe."""
    _read_line(timeout_s)


if __name__ == "__main__":
    sys.exit(main())
