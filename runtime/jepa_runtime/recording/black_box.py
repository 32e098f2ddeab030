"""The black box: what was seen, commanded and found surprising shortly before and after something went wrong,
as a bag that can be played again.

Frames (as JPEG), commands, surprise and alarms of the last seconds are kept in memory. When an alarm begins,
they are written to a bag, and so is what comes until ``after_s`` later; an alarm that begins meanwhile
prolongs it, one soon after has in its own bag once more what was before it. Latents and futures are left out:
they follow from frames and commands when the bag is played, and are a hundred times as large.

Whoever hands something over never waits: all work is done on a thread of the box's own, and what it cannot
keep up with is dropped and counted; alarms, and which model serves, never are. What goes wrong there is told
by :attr:`BlackBox.fault`, and tried again with the next alarm.
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
from jepa_runtime.recording.run_recording import COMMAND_TOPIC, IMAGE_TOPIC, NODE
from jepa_runtime.ros_messages.definitions import build, prepare
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Frame

_TYPES = (
    messages.MODEL_INFO,
    messages.SURPRISE,
    messages.SURPRISE_EVENT,
    messages.COMPRESSED_IMAGE,
    messages.TWIST,
)
# Two seconds of what two cameras hand over.
_MOST_WAITING = 512
# Frames wait as pixels: a disk that hangs must not take the memory that the model needs.
_MOST_WAITING_BYTES = 256 << 20
_MOST_RING_BYTES = 128 << 20
_MOST_BAGS = 64
# Frames may have stopped coming, and with them the time that stamps tell.
_PATIENCE_S = 2.0
_LOOK_S = 0.2
_CLOSING_S = 10.0


@dataclass(frozen=True)
class Topics:
    """What is recorded of a stream: topic of its images (to which ``/compressed`` is added), and prefix of
    the topics of its results.
    """

    images: str = IMAGE_TOPIC
    results: str = NODE


@dataclass(frozen=True)
class _Alarm:
    """Something goes wrong: write."""

    stamp_ns: int
    kind: str


class BlackBox:
    """Any thread may hand over frames, commands and results.

    Args:
        folder: of the bags.
        streams: each stream's topics; beside the results of the first is told which model serves.
        before_s, after_s: what is kept of the time before and after the beginning of an alarm.
        max_bytes: of all bags together; the oldest give way. A bag takes about half of it at most; the time
            before the alarm has its share of that: what is older is left out, what comes later ends early.
        clock: monotonic seconds.

    Attributes:
        fault: why the last bag could not be written, or the next cannot; empty: all is well.
        written: how many bags were.
        dropped: how many frames and messages were left out because too many waited.

    Raises:
        ValueError: a time or a limit is out of range.
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
        self._folder = BagFolder(folder, max_bytes=max_bytes, max_bags=_MOST_BAGS)
        self._after_s = after_s
        self._clock = clock
        most = int(max_bytes // 2 * before_s / (before_s + after_s))
        self._ring = RingBuffer(round(before_s * 1e9), min(most, _MOST_RING_BYTES))
        self._model: WorldModel | None = None
        self._told_model = False
        self._bag: McapRecorder | None = None
        self._until_ns, self._until_s, self._bytes = 0, 0.0, 0
        self._queue: Queue[Frame | Entry | _Alarm | None] = Queue()
        self._thread = Thread(target=self._work, name="jepa-black-box", daemon=True)
        self._thread.start()

    def serve(self, model: WorldModel) -> None:
        """From now on results come from ``model``."""
        self._model, self._told_model = model, False

    def add_frame(self, frame: Frame) -> None:
        """A frame; do not change its image after."""
        if self._model is not None and not self._told_model:
            self._told_model, stamp_ns = True, frame.stamp_ns
            info = messages.model_info(self._model, stamp_ns)
            topic = f"{next(iter(self._streams.values())).results}/model_info"
            self._queue.put(Entry(topic, messages.MODEL_INFO, info, stamp_ns, lasting=True))
        if self._queue.qsize() * frame.image.nbytes > _MOST_WAITING_BYTES:
            self.dropped += 1
        else:
            self._put(frame)

    def add_command(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """``action`` [A] is in force from ``stamp_ns`` on. One that is no Twist is left out."""
        model = self._model
        twist = None if model is None else messages.twist(model.manifest.io.action.names, action)
        if twist is not None:
            self._put(Entry(COMMAND_TOPIC, messages.TWIST, twist, stamp_ns, lasting=True))

    def add_result(self, result: Result) -> None:
        """What came out of a frame."""
        model = self._model
        surprise = None if model is None else messages.surprise(result, model)
        if surprise is not None:
            topic = f"{self._streams[result.stream].results}/surprise"
            self._put(Entry(topic, messages.SURPRISE, surprise, result.stamp_ns))

    def add_alarms(self, result: Result) -> None:
        """The alarms of a result that was judged; one that begins is what the box is for."""
        model = self._model
        if model is None:
            return
        prefix, stamp_ns = self._streams[result.stream].results, result.stamp_ns
        for alarm in result.alarms:
            event = messages.surprise_event(alarm, result, model)
            self._queue.put(Entry(f"{prefix}/events", messages.SURPRISE_EVENT, event, stamp_ns))
            if alarm.end_ns is None:
                self._queue.put(_Alarm(stamp_ns, alarm.kind))

    def close(self, timeout_s: float = _CLOSING_S) -> None:
        """Complete the bag in work; a disk that takes longer is left to itself. May be called again."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self.fault = f"{self._folder.path}: does not answer within {timeout_s:g} s"

    def _put(self, item: Frame | Entry) -> None:
        if self._queue.qsize() < _MOST_WAITING:
            self._queue.put(item)
        else:
            self.dropped += 1

    # --- on the box's own thread

    def _work(self) -> None:
        self._try(partial(prepare, *_TYPES))
        self._try(self._folder.check)
        while True:
            try:
                item = self._queue.get(timeout=_LOOK_S)
            except Empty:
                if self._clock() > self._until_s:
                    self._try(self._end)
            else:
                if item is None:
                    break
                self._try(partial(self._take, item))
        self._try(self._end)

    def _try(self, work: Callable[[], None]) -> None:
        """Do it; an error ends the bag in work, and is told."""
        try:
            work()
        except Exception as error:
            # Whatever it was: the box goes on, and so does the robot.
            known = isinstance(error, JepaRuntimeError)
            self.fault = str(error) if known else f"{type(error).__name__}: {error}"
            bag, self._bag = self._bag, None
            if bag is not None:
                with suppress(Exception):
                    self._folder.complete(bag)

    def _take(self, item: Frame | Entry | _Alarm) -> None:
        if isinstance(item, _Alarm):
            self._until_ns = item.stamp_ns + round(self._after_s * 1e9)
            self._until_s = self._clock() + self._after_s + _PATIENCE_S
            if self._bag is None:
                self._begin(item)
            return
        entry = self._entry_of(item) if isinstance(item, Frame) else item
        moment_ns = self._ring.add(entry)
        if self._bag is not None:
            self._write(self._bag, entry)
            over = moment_ns >= self._until_ns or self._clock() > self._until_s
            if over or self._bytes > self._folder.max_bytes // 2:
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
