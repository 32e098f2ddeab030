"""From the data that a user names to recordings, split into training and held-out recordings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from jepa_export.data.bag_recordings import BagOrigin
from jepa_export.data.drawn_rooms import SimulatedRecording
from jepa_export.data.frame_store import FrameStore, StoreError
from jepa_export.data.lerobot_recordings import INFO, episodes
from jepa_export.data.provenance_marks import mark
from jepa_export.data.recording import Origin, Recording
from jepa_export.data.video_recordings import SUFFIXES, VideoOrigin
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import CodedError, JepaRuntimeError
from jepa_runtime.sources import check_options, split_spec
from jepa_sim.worlds.two_rooms_geometry import LayoutKind

_LOG = logging.getLogger(__name__)
_READING_INTERVAL_S = 5.0
_BAG_SUFFIXES = frozenset({".mcap", ".db3"})
_BAG_OPTIONS = ("topic", "action", "max_age_s")
_FORMS = (
    "a video, a folder of videos or bags, BAG.mcap or a rosbag2 folder "
    "[?topic=/name&action=/cmd_vel:linear.x,angular.z&max_age_s=0.5], a LeRobot data set "
    "[?camera=NAME&action=action:NAME,NAME], two_rooms[?trajectories=N&frames=N&seed=N&layout=random|fixed]"
)


@dataclass(frozen=True)
class TrainingData:
    """Training recordings, held-out recordings, and the reasons for those that were skipped."""

    train: tuple[Recording, ...]
    held_out: tuple[Recording, ...]
    skipped: tuple[str, ...]


def open_data(
    specs: Sequence[str],
    store: FrameStore,
    *,
    held_out: float = 0.1,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> TrainingData:
    """Prepare recordings concurrently and split them.

    Args:
        specs: A video, a folder (searched recursively for videos and bags), a bag, a LeRobot data set or
            ``two_rooms``; options follow a question mark (the error for a wrong spec lists all of them).
        store: Cache of decoded frames; recordings in it are not decoded again.
        held_out: Proportion of recordings that are held out. A recording is on one side as a whole, and stays
            there when others are added. If so few exist that none falls into the proportion, one is held out
            nevertheless; it may become a training recording once there are more.
        skip_bad: Skip unusable recordings with a warning instead of failing.
        workers: Number of threads (default: the number of processors).
        progress: Called with a message after each recording, and every few seconds while one is decoded.

    Raises:
        JepaExportError: A source does not exist, recordings are not usable, or there are too few to hold one
            out.
        JepaRuntimeError: A recording cannot be read.
    """
    origins = [origin for spec in specs for origin in find_recordings(spec, store)]
    recordings, skipped = prepare(
        origins, store, skip_bad=skip_bad, workers=workers, progress=progress, reading=progress
    )
    train, held = split(recordings, held_out)
    return TrainingData(train, held, tuple(skipped))


def prepare(
    origins: Sequence[Origin | SimulatedRecording],
    store: FrameStore,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
    reading: Callable[[str], None] = lambda text: None,
) -> tuple[list[Recording], list[str]]:
    """Return the usable recordings, and the reasons for those that were skipped.

    Args:
        origins: Recordings to decode.
        store: See :func:`open_data`, as the following.
        skip_bad: Skip unusable recordings with a warning instead of failing.
        workers: Number of threads.
        progress: Called with a message after each recording.
        reading: Called with a message every few seconds while a recording is decoded.

    Raises:
        JepaExportError: Recordings are not usable; the message states all of them.
        JepaRuntimeError: A recording cannot be read.
    """
    recordings: list[Recording] = []
    errors: list[CodedError] = []
    cancelled = Event()
    reported_s = time.monotonic()

    def report(origin: Origin, count: int) -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s > _READING_INTERVAL_S:
            reported_s = time.monotonic()
            reading(f"{origin.name}: {count} frames read")

    def recording_or_error(origin: Origin | SimulatedRecording) -> Recording | CodedError:
        if isinstance(origin, SimulatedRecording):
            return origin
        try:
            return store.prepare(origin, cancelled.is_set, partial(report, origin))
        except StoreError:
            raise
        except (JepaExportError, JepaRuntimeError) as error:
            return error

    pool = ThreadPoolExecutor(workers or os.cpu_count(), "jepa-decode")
    try:
        for number, prepared in enumerate(pool.map(recording_or_error, origins), 1):
            if isinstance(prepared, CodedError):
                _LOG.warning("%s: %s", "skipped recording" if skip_bad else "unusable recording", prepared)
                errors.append(prepared)
            else:
                recordings.append(prepared)
            progress(f"recording {number} of {len(origins)}: {origins[number - 1].name}")
    finally:
        # On an error or Ctrl-C, do not wait until the videos in progress are decoded.
        cancelled.set()
        pool.shutdown(cancel_futures=True)
    if len(errors) == 1 and not skip_bad:
        raise errors[0]
    reasons = [str(error) for error in errors]
    if errors and not skip_bad:
        raise JepaExportError(
            f"{len(errors)} of {len(origins)} recordings cannot be used; repair or remove them, or skip them "
            "with --skip-bad:" + "".join(f"\n  {reason}" for reason in reasons),
            code="data.unusable_recordings",
        )
    if not recordings:
        raise JepaExportError(
            f"none of {len(origins)} recordings is usable; the first: {reasons[0]}", code="data.no_recordings"
        )
    return recordings, reasons


def split(
    recordings: Sequence[Recording], held_out: float
) -> tuple[tuple[Recording, ...], tuple[Recording, ...]]:
    """Split recordings into training and held-out recordings by a hash of their content.

    The split is the same in each run, on each machine, and for two copies of one recording. Neither side is
    empty.

    Raises:
        JepaExportError: The proportion is out of range, or there are too few different recordings.
    """
    if not 0 <= held_out < 1:
        raise JepaExportError(
            f"--held-out: must lie in [0, 1), got {held_out:g}", code="export.invalid_option"
        )
    if held_out == 0:
        return tuple(recordings), ()
    places = {recording.identity: _place(recording) for recording in recordings}
    if len(places) < 2:
        raise JepaExportError(
            f"{recordings[0].name}: the only recording, so none can be held out; add recordings, cut it in "
            "two, "
            "or hold out none (--held-out 0)",
            code="data.too_few_recordings",
        )
    ranked = sorted(places.values())
    bound = min(max(held_out, ranked[0]), ranked[-2])
    train = tuple(recording for recording in recordings if places[recording.identity] > bound)
    held = tuple(recording for recording in recordings if places[recording.identity] <= bound)
    return train, held


def _place(recording: Recording) -> float:
    """Return a number that is evenly distributed over [0, 1)."""
    return int(mark(recording), 16) / 2**48


def find_recordings(spec: str, store: FrameStore) -> Sequence[Origin | SimulatedRecording]:
    """Return the recordings that a user named, not decoded yet.

    Raises:
        JepaExportError: The source does not exist or contains no recording.
        JepaRuntimeError: The source does not have these options.
    """
    name, options = split_spec(spec)
    if name == "two_rooms":
        return _two_rooms(options, store)
    if not name:
        raise JepaExportError(f"--data: empty; use {_FORMS}", code="data.not_found")
    path = Path(name)
    if not path.exists():
        raise JepaExportError(f"{name}: no such file or folder; use {_FORMS}", code="data.not_found")
    if (path / INFO).is_file():
        check_options(name, options, allowed=("camera", "action"))
        return list(episodes(path, options))
    found: list[Origin] = list(_recordings_in(path, options, set()))
    if not found and path.is_file():
        # Only in folders does the suffix decide what is a video.
        found = [VideoOrigin(path)]
    if not found:
        raise JepaExportError(f"{name}: neither a video nor a bag; use {_FORMS}", code="data.not_found")
    allowed = _BAG_OPTIONS if any(isinstance(origin, BagOrigin) for origin in found) else ()
    check_options(name, options, allowed=allowed)
    return found


def holds_recordings(folder: Path) -> bool:
    """Return whether ``folder`` contains a data set, a video or a bag.

    Raises:
        JepaExportError: A data set is below it.
    """
    return (folder / INFO).is_file() or any(_recordings_in(folder, {}, set()))


def _recordings_in(path: Path, options: Mapping[str, str], seen: set[str]) -> Iterator[Origin]:
    """Yield videos and bags ordered by name, each once, even if links lead to it again (``seen``)."""
    if (real := os.path.realpath(path)) in seen:
        return
    seen.add(real)
    if (path / INFO).is_file():
        raise JepaExportError(
            f"{path}: a LeRobot data set, whose actions and episodes would be lost if its videos were read "
            "alone; "
            "name it directly",
            code="data.nested_data_set",
        )
    if path.suffix in _BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        yield BagOrigin(path, options)
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                yield from _recordings_in(entry, options, seen)
    elif path.suffix.lower() in SUFFIXES:
        yield VideoOrigin(path)


def _two_rooms(options: Mapping[str, str], store: FrameStore) -> list[SimulatedRecording]:
    check_options("two_rooms", options, allowed=("trajectories", "frames", "seed", "layout"))
    layouts: dict[str, LayoutKind] = {"random": "random", "fixed": "fixed"}
    layout = options.get("layout", "random")
    numbers = {"trajectories": "1000", "frames": "16", "seed": "0", **options}
    for name in ("trajectories", "frames", "seed"):
        if not numbers[name].isdecimal() or (name != "seed" and int(numbers[name]) == 0):
            raise JepaExportError(
                f"two_rooms: {name} must be a whole number, got {numbers[name]!r}",
                code="export.invalid_option",
            )
    if layout not in layouts:
        raise JepaExportError(
            f"two_rooms: layout must be random or fixed, got {layout!r}", code="export.invalid_option"
        )
    return [
        SimulatedRecording(
            int(numbers["seed"]),
            index,
            frames=int(numbers["frames"]),
            layout=layouts[layout],
            height=store.height,
            width=store.width,
        )
        for index in range(int(numbers["trajectories"]))
    ]
