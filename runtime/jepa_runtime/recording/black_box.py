"""The black box: records the seconds before and after an alarm into a bag that can be replayed.

Frames (as JPEG), commands, states of the robot, surprise and alarms of the last seconds are held in memory.
When an alarm begins, they are written to a bag, followed by everything until ``after_s`` later. Another alarm
in the meantime extends the bag; one after its end starts a bag that again contains the seconds before it.
Latents and futures are not recorded: they can be computed from the rest, and are a hundred times as large.

Callers never wait: all work happens on a background thread, and what it cannot keep up with is dropped and
counted, except for alarms and model information. Errors are reported by :attr:`BlackBox.fault`; the next
alarm tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.recording.bag_folder import BagFolder
from jepa_runtime.recording.ring_buffer import Entry, RingBuffer
from jepa_runtime.recording.run_recording import COMMAND_TOPIC, IMAGE_TOPIC, NODE, STATE_TOPIC
from jepa_runtime.ros_messages.definitions import build, prepare
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Frame

_TYPES = (
    messages.MODEL_INFO,
    messages.SURPRISE,
    messages.SURPRISE_EVENT,
    messages.COMPRESSED_IMAGE,
    messages.TWIST,
    messages.JOINT_STATE,
)
# Two seconds of the input of two cameras.
_MAX_QUEUED = 512
# Queued frames are uncompressed: a hanging disk must not use up the memory that the model needs.
_MAX_QUEUED_BYTES = 256 << 20
_MAX_RING_BYTES = 128 << 20
_MAX_BAGS = 64
# Ends a bag by the clock if no more frames arrive whose stamps would end it.
_TIMEOUT_S = 2.0
_POLL_S = 0.2
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Topics:
    """The topics of a stream.

    Attributes:
        images: Topic of the images, to which ``/compressed`` is appended.
        results: Prefix of the topics of the results.
    """

    images: str = IMAGE_TOPIC
    results: str = NODE


@dataclass(frozen=True)
class _Alarm:
    """Starts or extends a bag."""

    stamp_ns: int
    kind: str


class BlackBox:
    """Records bags around alarms. All methods may be called from any thread.

    Args:
        folder: The folder of the bags.
        streams: The topics of each stream; the model information is published next to the results of the
            first.
        before_s: The time recorded before the start of an alarm.
        after_s: The time recorded after the start of an alarm.
        max_bytes: Limit of the total size of all bags; the oldest are deleted. A bag takes at most about half
            of it, divided in proportion between the time before and after the alarm; the rest is cut off.
        clock: A monotonic clock in seconds.

    Attributes:
        fault: Why the last bag could not be written, or the next one cannot be; empty if there is no error.
        written: The number of bags written.
        dropped: The number of frames and messages that were dropped because the queue was full.

    Raises:
        ValueError: A time or a limit is out of range.
    """

    def __init__(
        self,
        folder: Path,
        *,
        streams: Mapping[str, Topics],
        before_s: float = 10.0,
        after_s: float = 5.0,
        max_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not before_s > 0 or not after_s > 0:
            raise ValueError(f"before_s and after_s must be positive, got {before_s} and {after_s}")
        self.fault = ""
        self.written = 0
        self.dropped = 0
        self._streams = dict(streams)
        self._folder = BagFolder(folder, max_bytes=max_bytes, max_bags=_MAX_BAGS)
        self._after_s = after_s
        self._clock = clock
        ring_bytes = int(max_bytes // 2 * before_s / (before_s + after_s))
        self._ring = RingBuffer(round(before_s * 1e9), min(ring_bytes, _MAX_RING_BYTES))
        self._model: WorldModel | None = None
        self._has_recorded_model = False
        self._bag: McapRecorder | None = None
        self._until_ns, self._until_s, self._bytes = 0, 0.0, 0
        self._queue: Queue[Frame | Entry | _Alarm | None] = Queue()
        self._thread = Thread(target=self._work, name="jepa-black-box", daemon=True)
        self._thread.start()

    def set_model(self, model: WorldModel) -> None:
        """Set the model that produces the results from now on."""
        self._model, self._has_recorded_model = model, False

    def add_frame(self, frame: Frame) -> None:
        """Add a frame, whose image must not be modified afterwards."""
        if self._model is not None and not self._has_recorded_model:
            self._has_recorded_model, stamp_ns = True, frame.stamp_ns
            info = messages.model_info(self._model, stamp_ns)
            topic = f"{next(iter(self._streams.values())).results}/model_info"
            self._queue.put(Entry(topic, messages.MODEL_INFO, info, stamp_ns, latched=True))
        if self._queue.qsize() * frame.image.nbytes > _MAX_QUEUED_BYTES:
            self.dropped += 1
        else:
            self._put(frame)

    def add_command(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """Add an ``action`` [A] that is in effect from ``stamp_ns`` on; ignored if it is not a Twist."""
        model = self._model
        twist = None if model is None else messages.twist(model.manifest.io.action.names, action)
        if twist is not None:
            self._put(Entry(COMMAND_TOPIC, messages.TWIST, twist, stamp_ns, latched=True))

    def add_state(self, stamp_ns: int, state: NDArray[np.float32]) -> None:
        """Add a ``state`` [S] of the robot at ``stamp_ns``; ignored if the model reads none."""
        spec = None if self._model is None else self._model.manifest.io.state
        if spec is not None:
            fields = messages.joint_state(spec.names, state, stamp_ns)
            self._put(Entry(STATE_TOPIC, messages.JOINT_STATE, fields, stamp_ns))

    def add_result(self, result: Result) -> None:
        """Add the surprise of a frame's result."""
        model = self._model
        surprise = None if model is None else messages.surprise(result, model)
        if surprise is not None:
            topic = f"{self._streams[result.stream].results}/surprise"
            self._put(Entry(topic, messages.SURPRISE, surprise, result.stamp_ns))

    def add_alarms(self, result: Result) -> None:
        """Add the alarms of an evaluated result; the start of an alarm starts a bag."""
        model = self._model
        if model is None:
            return
        prefix, stamp_ns = self._streams[result.stream].results, result.stamp_ns
        for alarm in result.alarms:
            event = messages.surprise_event(alarm, result, model)
            self._queue.put(Entry(f"{prefix}/events", messages.SURPRISE_EVENT, event, stamp_ns))
            if alarm.end_ns is None:
                self._queue.put(_Alarm(stamp_ns, alarm.kind))

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Complete the current bag, waiting at most ``timeout_s`` for the disk. Can be called repeatedly."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self.fault = f"{self._folder.path}: the disk does not respond within {timeout_s:g} s"

    def _put(self, item: Frame | Entry) -> None:
        if self._queue.qsize() < _MAX_QUEUED:
            self._queue.put(item)
        else:
            self.dropped += 1

    # --- background thread

    def _work(self) -> None:
        self._try(partial(prepare, *_TYPES))
        self._try(self._folder.check)
        while True:
            try:
                item = self._queue.get(timeout=_POLL_S)
            except Empty:
                if self._clock() > self._until_s:
                    self._try(self._end)
            else:
                if item is None:
                    break
                self._try(partial(self._process, item))
        self._try(self._end)

    def _try(self, work: Callable[[], None]) -> None:
        """Run ``work``; an error is stored in ``fault`` and ends the current bag."""
        try:
            work()
        except Exception as error:
            # No error may stop the black box or the robot.
            known = isinstance(error, JepaRuntimeError)
            self.fault = str(error) if known else f"{type(error).__name__}: {error}"
            bag, self._bag = self._bag, None
            if bag is not None:
                with suppress(Exception):
                    self._folder.complete(bag)

    def _process(self, item: Frame | Entry | _Alarm) -> None:
        if isinstance(item, _Alarm):
            self._until_ns = item.stamp_ns + round(self._after_s * 1e9)
            self._until_s = self._clock() + self._after_s + _TIMEOUT_S
            if self._bag is None:
                self._begin(item)
            return
        entry = self._entry_of(item) if isinstance(item, Frame) else item
        time_ns = self._ring.add(entry)
        if self._bag is not None:
            self._write(self._bag, entry)
            is_over = time_ns >= self._until_ns or self._clock() > self._until_s
            if is_over or self._bytes > self._folder.max_bytes // 2:
                self._end()

    def _entry_of(self, frame: Frame) -> Entry:
        image = messages.compressed_image(frame.image, frame.stamp_ns, frame.frame_id)
        topic = f"{self._streams[frame.stream].images}/compressed"
        return Entry(topic, messages.COMPRESSED_IMAGE, image, frame.stamp_ns, len(image["data"]))

    def _begin(self, alarm: _Alarm) -> None:
        self._bytes = 0
        self._bag = self._folder.begin(alarm.stamp_ns, alarm.kind)
        for entry in self._ring.entries():
            self._write(self._bag, entry)

    def _write(self, bag: McapRecorder, entry: Entry) -> None:
        bag.write_message(entry.topic, build(entry.type_name, entry.fields), entry.stamp_ns)
        self._bytes += entry.size

    def _end(self) -> None:
        bag, self._bag = self._bag, None
        if bag is not None:
            self._folder.complete(bag)
            self.written += 1
            self.fault = ""
