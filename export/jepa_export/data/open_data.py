"""From what a user types to clips: to train on, and to hold out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from jepa_export.data.bag_recordings import BagOrigin
from jepa_export.data.drawn_rooms import DrawnRecording
from jepa_export.data.frame_store import Store, StoreError
from jepa_export.data.lerobot_recordings import INFO, episodes
from jepa_export.data.provenance_marks import mark
from jepa_export.data.recording import Origin, Recording
from jepa_export.data.video_recordings import SUFFIXES, VideoOrigin
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.sources.factory import check_options, split_spec
from jepa_sim.worlds.two_rooms_geometry import LayoutKind

_LOG = logging.getLogger(__name__)
_BAG_SUFFIXES = frozenset({".mcap", ".db3"})
_BAG_OPTIONS = ("topic", "action", "max_age_s")
_FORMS = (
    "a video, a folder of videos or bags, BAG.mcap or a rosbag2 folder "
    "[?topic=/name&action=/cmd_vel:linear.x,angular.z&max_age_s=0.5], a LeRobot data set "
    "[?camera=NAME&action=action:NAME,NAME], two_rooms[?trajectories=N&frames=N&seed=N&layout=random|fixed]"
)


@dataclass(frozen=True)
class Data:
    """Recordings to train on and those held out, and what was wrong with those left out."""

    train: tuple[Recording, ...]
    held_out: tuple[Recording, ...]
    skipped: tuple[str, ...]


def open_data(
    specs: Sequence[str],
    store: Store,
    *,
    held_out: float = 0.1,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Data:
    """Prepare recordings, several at once, and split them.

    Args:
        specs: a video, a folder (searched with all below it for videos and bags), a bag, a LeRobot data set
            or ``two_rooms``; options follow a question mark (see the error of a wrong one for all of them).
        store: where decoded frames are kept; what is there already is not decoded again.
        held_out: which share of the recordings is held out; a recording is on one side whole, and stays there
            when others are added. Of few, where none falls to the share, one is held out all the same: it may
            be trained on once there are more.
        skip_bad: leave recordings that cannot be used out, with a warning each, instead of failing.
        workers: threads (default: as many as processors).
        progress: told in words what was done.

    Raises:
        JepaExportError, JepaRuntimeError: there is no such thing, a recording cannot be used, or there are
            too few to hold one out.
    """
    origins = [origin for spec in specs for origin in find(spec, store)]
    recordings, skipped = prepare(origins, store, skip_bad=skip_bad, workers=workers, progress=progress)
    train, held = split(recordings, held_out)
    return Data(train, held, tuple(skipped))


def prepare(
    origins: Sequence[Origin | Recording],
    store: Store,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Recording], list[str]]:
    """What was found as recordings, and what was wrong with those left out.

    Args, Raises: as :func:`open_data`.
    """
    recordings: list[Recording] = []
    skipped: list[str] = []
    stopped = Event()

    def prepared_or_why(origin: Origin | Recording) -> Recording | str:
        if isinstance(origin, DrawnRecording):
            return origin
        try:
            return store.prepare(origin, stopped.is_set)
        except (JepaExportError, JepaRuntimeError) as error:
            if not skip_bad or isinstance(error, StoreError):
                raise
            return str(error)

    pool = ThreadPoolExecutor(workers or os.cpu_count(), "jepa-decode")
    try:
        for number, prepared in enumerate(pool.map(prepared_or_why, origins), 1):
            if isinstance(prepared, str):
                _LOG.warning("left out: %s", prepared)
                skipped.append(prepared)
            else:
                recordings.append(prepared)
            progress(f"recording {number} of {len(origins)}: {origins[number - 1].name}")
    finally:
        # An error, or Ctrl-C, is not to wait until the films at hand are decoded.
        stopped.set()
        pool.shutdown(cancel_futures=True)
    if not recordings:
        raise JepaExportError(f"none of {len(origins)} recordings can be used; the first: {skipped[0]}")
    return recordings, skipped


def split(
    recordings: Sequence[Recording], held_out: float
) -> tuple[tuple[Recording, ...], tuple[Recording, ...]]:
    """Those to train on, and those held out: by a hash of what was recorded, and so the same in every run, on
    every machine, and for both copies of one recording. Neither side is left empty.

    Raises:
        JepaExportError: the share is none, or there are too few different recordings for it.
    """
    if not 0 <= held_out < 1:
        raise JepaExportError(f"the share to hold out must lie in [0, 1), got {held_out:g}")
    if held_out == 0:
        return tuple(recordings), ()
    places = {recording.identity: _place(recording) for recording in recordings}
    if len(places) < 2:
        raise JepaExportError(
            f"{recordings[0].name} is the only recording: nothing can be held out of one; give more, "
            "cut it in two, or hold out none (0)"
        )
    ranked = sorted(places.values())
    bound = min(max(held_out, ranked[0]), ranked[-2])
    train = tuple(recording for recording in recordings if places[recording.identity] > bound)
    held = tuple(recording for recording in recordings if places[recording.identity] <= bound)
    return train, held


def _place(recording: Recording) -> float:
    """Evenly spread over [0, 1)."""
    return int(mark(recording), 16) / 2**48


def find(spec: str, store: Store) -> list[Origin] | list[Recording]:
    """The recordings that a user names, of which nothing is decoded yet.

    Raises:
        JepaExportError, JepaRuntimeError: there is no such thing, or it has no such options.
    """
    name, options = split_spec(spec)
    if name == "two_rooms":
        return _two_rooms(options, store)
    if not name:
        raise JepaExportError(f"no data is named; --data is one of: {_FORMS}")
    path = Path(name)
    if not path.exists():
        raise JepaExportError(f"{name}: no such file or folder; --data is one of: {_FORMS}")
    if (path / INFO).is_file():
        check_options(name, options, allowed=("camera", "action"))
        return list(episodes(path, options))
    found = list(_recordings_in(path, options, set()))
    if not found:
        raise JepaExportError(f"{name}: neither a video nor a bag; --data is one of: {_FORMS}")
    allowed = _BAG_OPTIONS if any(isinstance(origin, BagOrigin) for origin in found) else ()
    check_options(name, options, allowed=allowed)
    return found


def holds_recordings(folder: Path) -> bool:
    """Whether there is a data set, a video or a bag in it.

    Raises:
        JepaExportError: there is a data set below.
    """
    return (folder / INFO).is_file() or any(_recordings_in(folder, {}, set()))


def _recordings_in(path: Path, options: Mapping[str, str], seen: set[str]) -> Iterator[Origin]:
    """Videos and bags, in the order of their names; what links lead to again (``seen``), once."""
    if (real := os.path.realpath(path)) in seen:
        return
    seen.add(real)
    if (path / INFO).is_file():
        raise JepaExportError(
            f"{path} is a LeRobot data set: name it by itself, as films alone it has neither actions nor "
            "episodes"
        )
    if path.suffix in _BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        yield BagOrigin(path, options)
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                yield from _recordings_in(entry, options, seen)
    elif path.suffix.lower() in SUFFIXES:
        yield VideoOrigin(path)


def _two_rooms(options: Mapping[str, str], store: Store) -> list[Recording]:
    check_options("two_rooms", options, allowed=("trajectories", "frames", "seed", "layout"))
    layouts: dict[str, LayoutKind] = {"random": "random", "fixed": "fixed"}
    layout = options.get("layout", "random")
    numbers = {"trajectories": "1000", "frames": "16", "seed": "0"} | options
    for name in ("trajectories", "frames", "seed"):
        if not numbers[name].isdecimal() or (name != "seed" and int(numbers[name]) == 0):
            raise JepaExportError(f"two_rooms: {name} must be a whole number, got {numbers[name]!r}")
    if layout not in layouts:
        raise JepaExportError(f"two_rooms: layout must be random or fixed, got {layout!r}")
    return [
        DrawnRecording(
            int(numbers["seed"]),
            index,
            frames=int(numbers["frames"]),
            layout=layouts[layout],
            height=store.height,
            width=store.width,
        )
        for index in range(int(numbers["trajectories"]))
    ]
