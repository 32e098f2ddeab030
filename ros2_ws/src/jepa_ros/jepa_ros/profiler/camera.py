"""The profiler's camera: publishes images on an exact schedule, from a process of its own.

Everything is read, scaled and put into messages beforehand, so that nothing but publishing is done on the
schedule. It talks with the profiler in lines of JSON: tells ``{"ready": …}``, publishes images to warm up
until it is told of a :class:`Schedule` ``{"start_ns": …}``, then tells ``[index, moment]`` of each image, and
is quiet until it is told of the next. It ends when its standard input does.
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
from jepa_ros.common.action_commands import Actions, actions_of
from jepa_ros.common.conversions import to_image, to_time
from jepa_runtime.errors import JepaRuntimeError, ProfileError, SourceError
from jepa_runtime.imaging.conversion import resize_into
from jepa_runtime.sources.base import Frame, Source
from jepa_runtime.sources.factory import open_source

_MAX_HELD_BYTES = 128 << 20
# Discovery takes up to 3 s.
_MATCH_TIMEOUT_S = 6.0
_POLL_S = 0.01
_FRAME_ID = "camera"


@dataclass(frozen=True)
class _Shot:
    """An image and the messages that tell what its robot does from then on; none: no commands are sent."""

    image: Image
    command: list[Any]


@dataclass(frozen=True)
class Schedule:
    """``frames`` images, of which the first is due at ``start_ns`` (CLOCK_MONOTONIC), and ``lead`` before
    them that do not count: they fill the history."""

    start_ns: int
    rate_hz: float
    frames: int
    lead: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m jepa_ros.profiler.camera``; see :mod:`jepa_ros.nodes.profiler`."""
    options = _parse(arguments)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        _Camera(options).play()
    except JepaRuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except (_EndError, BrokenPipeError):
        return 0
    finally:
        rclpy.try_shutdown()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--offset-ns", type=int, required=True, help="stamps less CLOCK_MONOTONIC")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"))
    parser.add_argument("--actions", nargs="*", default=[], help="send commands of these components")
    return parser.parse_args(arguments)


class _Camera:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._node = Node("profiler_camera")
        self._images = self._node.create_publisher(Image, options.topic, qos.SENSOR)
        self._actions: Actions | None = None
        self._commands: list[Any] = []
        if options.actions:
            self._actions = actions_of(options.actions)
            self._commands = self._actions.publishers(self._node)
            self._goals = self._node.create_publisher(Image, "goal_image", qos.LATCHED)

    def play(self) -> None:
        """Warm up, then keep to one schedule after the other."""
        shots = self._load()
        self._await_subscriber()
        image = shots[0].image
        _tell({"ready": {"size": [image.width, image.height], "distinct": len(shots)}})
        # A collection over all these messages would hold up an image.
        gc.freeze()
        told = self._warm_up(shots)
        while True:
            self._keep(self._schedule(told), shots)
            told = _heard(None)

    def _schedule(self, told: str) -> Schedule:
        usual = {"rate_hz": self._options.rate, "frames": self._options.frames}
        return Schedule(**usual | json.loads(told))

    def _keep(self, schedule: Schedule, shots: list[_Shot]) -> None:
        for index in range(-schedule.lead, schedule.frames):
            due_ns = schedule.start_ns + round(index * 1e9 / schedule.rate_hz)
            _rest((due_ns - time.monotonic_ns()) / 1e9)
            began_ns = self._publish(shots[index % len(shots)], due_ns)
            if index >= 0:
                _tell([index, began_ns])

    def _load(self) -> list[_Shot]:
        rate_hz = self._options.rate
        with closing(open_source(self._options.source, rate_hz=rate_hz)) as source:
            if source.live:
                raise SourceError(
                    f"{source.name}: a device sets its own pace; give a video, a folder, a bag or two_rooms"
                )
            if self._actions is not None and source.goal is not None:
                self._goals.publish(to_image(source.goal, stamp_ns=time.time_ns(), frame_id=_FRAME_ID))
            shots, held = [], 0
            for frame in source.frames():
                shots.append(self._shot(frame, source))
                held += len(shots[-1].image.data)
                _rest(0.0)
                if len(shots) == self._options.frames or held > _MAX_HELD_BYTES:
                    break
        if not shots:
            raise SourceError(f"{source.name}: it has no frames")
        return shots

    def _shot(self, frame: Frame, source: Source) -> _Shot:
        pixels: NDArray[np.uint8] = frame.image
        if self._options.size is not None:
            width, height = self._options.size
            pixels = np.empty((height, width, 3), np.uint8)
            resize_into(frame.image, pixels)
        command: list[Any] = []
        if self._actions is not None:
            size, held = len(self._options.actions), source.command
            # A source may be of another robot.
            known = held is not None and len(held) == size
            command = self._actions.messages(held if known else np.zeros(size), Header())
        return _Shot(to_image(pixels, stamp_ns=0, frame_id=_FRAME_ID), command)

    def _await_subscriber(self) -> None:
        topic = self._images.topic_name
        deadline = time.monotonic() + _MATCH_TIMEOUT_S
        while self._images.get_subscription_count() == 0:
            _rest(_POLL_S)
            if time.monotonic() > deadline:
                kinds = dict(self._node.get_topic_names_and_types())
                listened = [name for name in kinds if self._node.count_subscribers(name)]
                images = [name for name in listened if "sensor_msgs/msg/Image" in kinds[name]]
                raise ProfileError(
                    f"{topic}: nobody subscribes to it; image topics with subscribers: "
                    f"{', '.join(sorted(images)) or 'none'} (choose with --topic)"
                )

    def _warm_up(self, shots: list[_Shot]) -> str:
        """Publish at the rate until told of the first schedule."""
        for index in count():
            self._publish(shots[index % len(shots)], time.monotonic_ns())
            line = _heard(1 / self._options.rate)
            if line:
                break
        return line

    def _publish(self, shot: _Shot, due_ns: int) -> int:
        """Publish an image stamped with the moment it was due; when that began."""
        shot.image.header.stamp = to_time(due_ns + self._options.offset_ns)
        began_ns = time.monotonic_ns()
        self._images.publish(shot.image)
        for publisher, message in zip(self._commands, shot.command, strict=True):
            publisher.publish(message)
        return began_ns


class _EndError(Exception):
    """The profiler wants no more images, or is gone."""


def _tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _heard(timeout_s: float | None) -> str:
    """What the profiler says within ``timeout_s`` (None: whenever that is); empty: nothing."""
    if not select.select([sys.stdin], [], [], timeout_s and max(0.0, timeout_s))[0]:
        return ""
    line = sys.stdin.readline()
    if not line:
        raise _EndError
    return line


def _rest(timeout_s: float) -> None:
    """Wait, at most until the profiler wants an end."""
    _heard(timeout_s)


if __name__ == "__main__":
    sys.exit(main())
