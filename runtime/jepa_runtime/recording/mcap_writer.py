"""Write ROS 2 messages into an MCAP file, as rosbag2 does, but without ROS."""

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
# Measured on one core, chunks of 1 MiB: zstd compresses float32 futures to 0.93 at 520 MB/s and raw 128 x 128
# images to 0.87 at 625 MB/s; lz4 leaves both at 1.00, futures at 220 MB/s. Both are built into rosbag2 and
# Foxglove.
_COMPRESSION = CompressionType.ZSTD


class NameTakenError(RecordingError):
    """There is, or is being recorded, a file of that name."""


class RosWriter(Writer):
    """Writes serialised ROS 2 messages into an MCAP file, with the full definitions of their types."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, compression=_COMPRESSION)
        self.start(profile="ros2", library="jepa-edge")
        self._types: dict[str, int] = {}
        self._topics: dict[str, int] = {}

    def add(
        self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int, sequence: int = 0
    ) -> None:
        """The next message of ``topic``, whose messages are all of ``type_name``, logged at ``stamp_ns``."""
        if type_name not in self._types:
            text = definition(type_name).encode()
            self._types[type_name] = self.register_schema(type_name, SchemaEncoding.ROS2, text)
        if topic not in self._topics:
            self._topics[topic] = self.register_channel(
                topic, MessageEncoding.CDR, self._types[type_name], {"topic_type_hash": type_hash(type_name)}
            )
        self.add_message(self._topics[topic], stamp_ns, bytes(cdr), stamp_ns, sequence)


class McapRecorder:
    """One recording: CDR messages with their full definitions (profile ``ros2``), indexed, in compressed
    chunks.

    Writing is done on a thread of the recorder's own, so that neither compression nor the disk delays the
    caller; where the disk cannot keep up, :meth:`write` waits. The file bears the suffix ``.partial`` until
    :meth:`close` has completed it. Any thread may write.

    Args:
        path: the file to write; folders are made.

    Attributes:
        partial: where it is until then.

    Raises:
        RecordingError: the file cannot be created, or there is one already; see :func:`create`.
    """

    def __init__(self, path: str | Path) -> None:
        # Building the types takes a tenth of a second: now, rather than with the first message.
        typestore()
        self.path = Path(path)
        self.partial, self._file = create(self.path)
        self._writer = RosWriter(self._file)
        self._types: dict[str, str] = {}
        self._counts = Counter[str]()
        self._queue: Queue[tuple[str, str, bytes | memoryview, int] | None] = Queue(_QUEUE_MESSAGES)
        self._error: Exception | None = None
        self._closed = False
        self._thread = Thread(target=self._work, name="jepa-recorder", daemon=True)
        self._thread.start()

    def write(self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int) -> None:
        """Record a serialised message of ``type_name`` (``package/msg/Name``), logged at ``stamp_ns``.

        ``cdr`` begins with its four bytes of encapsulation, as every ROS 2 serialiser returns it, and is not
        copied.

        Raises:
            RecordingError: the type is unknown, the topic holds another type, the recorder is closed, or an
                earlier message could not be written.
        """
        if self._closed:
            raise RecordingError(f"{self.path}: the recording is closed")
        self._raise_error()
        definition(type_name)
        self._queue.put((topic, type_name, cdr, stamp_ns))

    def write_message(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Record a message of rosbags (see :func:`~jepa_runtime.ros_messages.definitions.build`)."""
        type_name = message.__msgtype__
        self.write(topic, type_name, typestore().serialize_cdr(message, type_name), stamp_ns)

    def close(self) -> None:
        """Complete the file and give it its name. May be called again.

        Raises:
            RecordingError: something could not be written, or another file came to be called so; what was
                recorded is in the ``.partial`` file.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        with explained(self.path, "cannot be completed"), self._file:
            self._raise_error()
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
            # Closed, it would be taken for one that was cut off.
            give_name(self.partial, self.path)

    def discard(self) -> None:
        """Leave no file: remove what was written so far, also where it could not be completed."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        # A full disk fails once more.
        with suppress(OSError):
            self._file.close()
        self.partial.unlink(missing_ok=True)

    def __enter__(self) -> McapRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            # After an error the queue is emptied all the same: nobody who writes may be left waiting for it.
            if self._error is None:
                try:
                    self._add(*item)
                except Exception as error:
                    self._error = error

    def _add(self, topic: str, type_name: str, cdr: bytes | memoryview, stamp_ns: int) -> None:
        recorded = self._types.setdefault(topic, type_name)
        if recorded != type_name:
            raise ValueError(f"topic {topic} holds {recorded}, not {type_name}")
        self._writer.add(topic, type_name, cdr, stamp_ns, self._counts[topic])
        self._counts[topic] += 1

    def _raise_error(self) -> None:
        if self._error is None:
            return
        reason = self._error.strerror if isinstance(self._error, OSError) else self._error
        raise RecordingError(f"{self.path}: writing failed: {reason}; what came before is in {self.partial}")


@contextmanager
def explained(path: Path, fault: str = "cannot be written") -> Iterator[None]:
    """Raises RecordingError for what the system says of a file."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{path}: {fault}: {error.strerror}") from error


def create(path: Path) -> tuple[Path, BinaryIO]:
    """The file that is called ``path`` once it is complete, and until then bears the suffix ``.partial``.

    What was recorded cannot be recorded again: neither a file of that name is replaced, nor what is being
    recorded under it or was until power or the disk failed. While it is open, :func:`remove_left` leaves it.

    Raises:
        NameTakenError: there is such a file.
        RecordingError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _begin(partial)
    try:
        # Only now nobody else can complete one.
        _refuse_existing(path)
    except RecordingError:
        if partial.is_file():
            partial.unlink()
        file.close()
        raise
    return partial, file


def _begin(partial: Path) -> BinaryIO:
    """A new file, locked while it is open; a device in its place is written into."""
    while True:
        try:
            file = partial.open("xb")
        except FileExistsError:
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(partial.stat().st_mode):
                    return os.fdopen(os.open(partial, os.O_WRONLY), "wb")
            raise NameTakenError(
                f"{partial}: exists: it is being recorded, or was cut off (mcap recover): name another file, "
                "or move that one away"
            ) from None
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Until it was locked it could be taken for one that was cut off.
        if _is_called(file, partial):
            return file
        file.close()


def _is_called(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still bears that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_left(partial: Path) -> None:
    """Remove a file that :func:`create` made, unless it is still being recorded, as far as its file system
    can tell.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError), partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            pass
        # Until it was locked it could be completed, and the next one be begun.
        if _is_called(file, partial):
            partial.unlink()


def give_name(partial: Path, path: Path) -> None:
    """Call a file that is complete ``path``.

    Raises:
        RecordingError: another one came to be called so meanwhile.
        OSError: it cannot be renamed.
    """
    if path.exists():
        raise RecordingError(f"{path}: exists: came to be there meanwhile; what was recorded is in {partial}")
    partial.replace(path)


def check_outputs(outs: Sequence[Path], *read: Path) -> None:
    """See that ``outs`` may be written, before minutes are spent on what they are to hold: they can be, no
    two are one file, and each lies apart from what is ``read`` (:func:`check_apart`), and is no other bag.

    Raises:
        RecordingError: one may not.
        JepaRuntimeError: one cannot be written.
    """
    targets: list[Path] = []
    for out in outs:
        # Of links in a circle, Path.resolve makes an error before Python 3.13.
        target = Path(os.path.realpath(out))
        # What is no file, such as /dev/null, may take all.
        if target in targets and (target.is_file() or not target.exists()):
            raise RecordingError(f"{out}: is asked for twice: name another file")
        targets.append(target)
        check_apart(out, *read)
        if out.suffix == ".mcap":
            _refuse_existing(out)
        check_writable(out)


def check_apart(out: Path, *read: Path) -> None:
    """See that ``out`` is none of the files, bags and bundles that are ``read``, nor lies in a bag or bundle
    that is a folder. A bundle is refused by all who open it as soon as it holds a file that its manifest does
    not list.

    Raises:
        RecordingError: it is, or does.
    """
    target = Path(os.path.realpath(out))
    marks = ("metadata.yaml", "manifest.json")
    holding = {target, *(each for each in target.parents if any((each / mark).exists() for mark in marks))}
    for path in read:
        if Path(os.path.realpath(path)) in holding:
            raise RecordingError(f"{out}: is, or lies in, {path}, which is read: write into another file")


def _refuse_existing(path: Path) -> None:
    if path.is_dir():
        raise RecordingError(f"{path}: is a folder: name a file in it")
    if path.exists():
        raise NameTakenError(
            f"{path}: exists: a recording is not replaced: name another file, or remove that one first"
        )
