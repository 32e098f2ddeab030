"""Write ROS 2 messages into MCAP files like rosbag2, but without ROS."""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO

from mcap.well_known import MessageEncoding, SchemaEncoding
from mcap.writer import CompressionType, Writer

from jepa_runtime.errors import RecordingError
from jepa_runtime.ros_messages.definitions import definition, type_hash, typestore
from jepa_runtime.util.output_files import check_writable

_QUEUE_MESSAGES = 256
# Measured on one core with chunks of 1 MiB: zstd compresses float32 futures to 0.93 at 520 MB/s and raw 128 x
# 128 images to 0.87 at 625 MB/s; lz4 compresses neither (1.00; futures at 220 MB/s). rosbag2 and Foxglove
# support both.
_COMPRESSION = CompressionType.ZSTD


class RecordingExistsError(RecordingError):
    """A recording of that name exists, or is in progress."""

    code = "recording.file_exists"


class RosWriter(Writer):
    """Writes serialized ROS 2 messages into an MCAP file, with the full definitions of their types."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, compression=_COMPRESSION)
        self.start(profile="ros2", library="jepa-edge")
        self._types: dict[str, int] = {}
        self._topics: dict[str, int] = {}

    def add(
        self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int, sequence: int = 0
    ) -> None:
        """Write a message of ``topic``, all of whose messages have the type ``type_name``."""
        if type_name not in self._types:
            text = definition(type_name).encode()
            self._types[type_name] = self.register_schema(type_name, SchemaEncoding.ROS2, text)
        if topic not in self._topics:
            self._topics[topic] = self.register_channel(
                topic, MessageEncoding.CDR, self._types[type_name], {"topic_type_hash": type_hash(type_name)}
            )
        self.add_message(self._topics[topic], stamp_ns, bytes(cdr), stamp_ns, sequence)


class McapRecorder:
    """One recording: CDR messages with their definitions (profile ``ros2``), indexed, in compressed chunks.

    Writing happens on a background thread, so that neither compression nor the disk delays the caller; if the
    disk cannot keep up, :meth:`write` blocks. The file has the suffix ``.partial`` until :meth:`close`
    completes it. Any thread may write.

    Args:
        path: The file to write; its folders are created.

    Attributes:
        path: The path of the complete file.
        partial: The path of the incomplete file.

    Raises:
        RecordingError: The file cannot be created, or exists; see :func:`create_partial`.
    """

    def __init__(self, path: str | Path) -> None:
        # Building the types takes a tenth of a second, which would otherwise delay the first message.
        typestore()
        self.path = Path(path)
        self.partial, self._file = create_partial(self.path)
        self._writer = RosWriter(self._file)
        self._types: dict[str, str] = {}
        self._counts = Counter[str]()
        self._queue: Queue[tuple[str, str, bytes | memoryview, int] | None] = Queue(_QUEUE_MESSAGES)
        self._error: Exception | None = None
        self._closed = False
        self._thread = Thread(target=self._work, name="jepa-recorder", daemon=True)
        self._thread.start()

    def write(self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int) -> None:
        """Record a serialized message.

        Args:
            topic: The topic.
            type_name: The type as ``package/msg/Name``.
            cdr: The message with its four bytes of encapsulation, as ROS 2 serializers return it; not copied.
            stamp_ns: The log time.

        Raises:
            RecordingError: The type is unknown, the topic has another type, the recorder is closed, or an
                earlier message could not be written.
        """
        if self._closed:
            raise RecordingError(f"the recording {self.path} is closed", code="recording.closed")
        self._raise_error()
        definition(type_name)
        self._queue.put((topic, type_name, cdr, stamp_ns))

    def write_message(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Record a rosbags message (see :func:`~jepa_runtime.ros_messages.definitions.build`)."""
        type_name = message.__msgtype__
        self.write(topic, type_name, typestore().serialize_cdr(message, type_name), stamp_ns)

    def close(self) -> None:
        """Complete the file and rename it to its final name. Can be called repeatedly.

        Raises:
            RecordingError: Something could not be written, or a file of that name was created in the
                meantime; the data are in the ``.partial`` file.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        with recording_errors(self.path, "cannot be completed"), self._file:
            self._raise_error()
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
            # Before the file is closed, which unlocks it: others would consider it abandoned.
            complete_file(self.partial, self.path)

    def discard(self) -> None:
        """Stop recording and remove the incomplete file, also after an error."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        # On a full disk, closing fails again.
        with suppress(OSError):
            self._file.close()
        self.partial.unlink(missing_ok=True)

    def __enter__(self) -> McapRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            # After an error the queue is still drained, so that no writer blocks forever.
            if self._error is None:
                try:
                    self._add(*item)
                except Exception as error:
                    self._error = error

    def _add(self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int) -> None:
        recorded = self._types.setdefault(topic, type_name)
        if recorded != type_name:
            raise ValueError(f"topic {topic} has the type {recorded}, not {type_name}")
        self._writer.add(topic, type_name, cdr, stamp_ns, self._counts[topic])
        self._counts[topic] += 1

    def _raise_error(self) -> None:
        if self._error is None:
            return
        reason = self._error.strerror if isinstance(self._error, OSError) else self._error
        raise RecordingError(
            f"{self.path}: writing failed: {reason}; earlier messages are in {self.partial}",
            code="recording.write_failed",
        )


@contextmanager
def recording_errors(path: Path, fault: str = "cannot be written") -> Iterator[None]:
    """Raise OSError as RecordingError with the path and the cause."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{path}: {fault}: {error.strerror}", code="recording.io") from error


def create_partial(path: Path) -> tuple[Path, BinaryIO]:
    """Create the file that becomes ``path`` when complete, and has the suffix ``.partial`` until then.

    Recordings cannot be repeated, so existing files are never replaced: neither a complete one, nor one that
    is in progress or was interrupted by a power cut or disk failure. While it is open,
    :func:`remove_stale_partial` does not remove it.

    Raises:
        RecordingExistsError: Such a file exists.
        RecordingError: The file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    with recording_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _create_locked(partial)
    try:
        # After locking: from here on no other process can complete one.
        _check_not_existing(path)
    except RecordingError:
        if partial.is_file():
            partial.unlink()
        file.close()
        raise
    return partial, file


def _create_locked(partial: Path) -> BinaryIO:
    """Create a file that is locked while it is open; an existing device file is opened instead."""
    while True:
        try:
            file = partial.open("xb")
        except FileExistsError:
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(partial.stat().st_mode):
                    return os.fdopen(os.open(partial, os.O_WRONLY), "wb")
            raise RecordingExistsError(
                f"{partial} already exists: it is being recorded, or was interrupted (see `mcap recover`): "
                "name another file, or move it away"
            ) from None
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked, another process could remove it as abandoned.
        if _is_at(file, partial):
            return file
        file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether ``path`` still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_stale_partial(partial: Path) -> None:
    """Remove a file created by :func:`create_partial` unless it is still being recorded.

    On file systems without locks, that cannot be detected.

    Raises:
        OSError: The file cannot be removed.
    """
    with suppress(FileNotFoundError), partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            pass
        # Before it was locked, it could be completed and the next one created.
        if _is_at(file, partial):
            partial.unlink()


def complete_file(partial: Path, path: Path) -> None:
    """Rename a complete file to its final name.

    Raises:
        RecordingExistsError: A file of that name was created in the meantime.
        OSError: The file cannot be renamed.
    """
    if path.exists():
        raise RecordingExistsError(
            f"{path} was created by another process in the meantime; the recording is in {partial}"
        )
    partial.replace(path)


def check_outputs(outputs: Sequence[Path], *inputs: Path) -> None:
    """Check that output files can be written, before minutes are spent on computing them.

    No two may be the same file, none may be an input (:func:`check_separate`) or an existing bag.

    Raises:
        RecordingError: An output is not allowed.
        JepaRuntimeError: An output cannot be written.
    """
    targets: list[Path] = []
    for output in outputs:
        # Path.resolve raises an error for circular links before Python 3.13.
        target = Path(os.path.realpath(output))
        # Devices such as /dev/null accept several outputs.
        if target in targets and (target.is_file() or not target.exists()):
            raise RecordingError(
                f"{output} is specified twice as output: name another file", code="recording.duplicate_output"
            )
        targets.append(target)
        check_separate(output, *inputs)
        if output.suffix == ".mcap":
            _check_not_existing(output)
        check_writable(output)


def check_separate(output: Path, *inputs: Path) -> None:
    """Check that an output is not an input, nor inside a bag or bundle folder that is an input.

    A bundle with a file that its manifest does not list is invalid.

    Raises:
        RecordingError: The output is, or is inside, an input.
    """
    target = Path(os.path.realpath(output))
    marks = ("metadata.yaml", "manifest.json")
    containers = {target, *(each for each in target.parents if any((each / mark).exists() for mark in marks))}
    for path in inputs:
        if Path(os.path.realpath(path)) in containers:
            raise RecordingError(
                f"{output} is, or lies in, {path}, which is read: write into another file",
                code="recording.output_is_input",
            )


def _check_not_existing(path: Path) -> None:
    if path.is_dir():
        raise RecordingError(f"{path} is a folder: name a file in it", code="recording.output_is_folder")
    if path.exists():
        raise RecordingExistsError(
            f"{path} already exists, and recordings are never replaced: name another file, or remove it first"
        )
