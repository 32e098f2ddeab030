"""LeRobot data sets on disk, formats v2.x and v3.0 (huggingface/lerobot,
``docs/source/lerobot-dataset-v3.mdx``).

``meta/info.json`` names the features, the rate, and the paths. In v2.x each episode has a parquet file and
one video for each camera, and ``meta/episodes.jsonl`` lists them; in v3.0 many episodes share a file, and
``meta/episodes/*/*.parquet`` tells which, and from when on in its video.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np

from jepa_export.data.file_hash import file_hash
from jepa_export.data.video_recordings import decoded, stretch_hash
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import FrameError
from jepa_runtime.imaging.conversion import Image, decode
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.command_fields import UNKNOWN_UNIT
from jepa_runtime.sources.commands import Commands, Stamps

INFO = Path("meta/info.json")
# Of a table, as Python has them: they may hold images.
_ROWS_AT_ONCE = 256
# Episodes of one file are prepared at once: the first to come hashes the file, the others wait for it.
_HASHING = Lock()


@dataclass(frozen=True)
class _Video:
    """Where the frames of an episode are: a video, and from when on in it [s]."""

    path: Path
    start_s: float


@dataclass(frozen=True)
class _Choice:
    """What is read of a data set: a camera, and components ``names`` of the feature ``action`` at ``places``
    of all ``size`` (None: no actions); ``numbers``: all features of numbers.
    """

    camera: str
    action: str | None
    size: int
    names: tuple[str, ...]
    places: tuple[int, ...]
    numbers: tuple[str, ...]


class EpisodeOrigin:
    """One episode of a data set; ``shared``: its table holds others too, or will."""

    def __init__(
        self,
        folder: Path,
        index: int,
        length: int,
        table: Path,
        video: _Video | None,
        choice: _Choice,
        *,
        shared: bool,
    ) -> None:
        self.name = f"{folder} (episode {index})"
        self._index, self._length, self._table, self._shared = index, length, table, shared
        self._video, self._choice = video, choice

    def identity(self) -> str:
        # Whatever camera and actions are chosen, it is the same recording.
        return self._rows(*self._choice.numbers)

    def frames_key(self) -> str:
        camera = self._choice.camera
        if self._video is None:
            return f"{self._rows(camera)} {camera}"
        if not self._shared:
            return f"{self._rows()} {file_hash(self._video.path)} {self._video.start_s}"
        rows, start_s, stamps = self._rows(), self._video.start_s, self._stamps()
        # A picture may come half the time between two frames late.
        late_ns = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 1e6
        first_s, end_s = stamps[0] / 1e9, (stamps[-1] + late_ns) / 1e9
        with _HASHING:
            film = stretch_hash(self._video.path, start_s + first_s, start_s + end_s)
        return f"{rows} {film} {start_s}"

    def _rows(self, *columns: str) -> str:
        """What changes with these columns and the time stamps of this episode, but not when others are added
        to its table."""
        content = file_hash(self._table)
        if self._shared:
            with _HASHING:
                hashes = _hashes(self._table, tuple(dict.fromkeys(("timestamp", *columns))), content)
            content = hashes.get(self._index, "")
        return f"{content} {self._index}"

    def commands(self) -> Commands | None:
        choice = self._choice
        if choice.action is None:
            return None
        try:
            rows = [np.reshape(value, choice.size) for value in self._numbers(choice.action)]
            values = [row[list(choice.places)] for row in rows]
            units = (UNKNOWN_UNIT,) * len(choice.names)
            return Commands(choice.names, units, self._stamps(), np.array(values, np.float32))
        except (ValueError, IndexError, TypeError) as error:
            raise JepaExportError(f"{self.name}: {choice.action} in {self._table}: {error}") from error

    def frames(self) -> Iterator[Frame]:
        stamps = self._stamps().tolist()
        images = self._images() if self._video is None else self._decoded(self._video, stamps)
        count = 0
        for stamp_ns, image in zip(stamps, images, strict=False):
            yield Frame(image, stamp_ns, "", count)
            count += 1
        if count < len(stamps):
            raise JepaExportError(
                f"{self.name}: its video ends after {count} of {len(stamps)} frames: it is cut off; "
                "copy it again"
            )

    def _decoded(self, video: _Video, stamps: list[int]) -> Iterator[Image]:
        start_ns = round(video.start_s * 1e9)
        frames = decoded(video.path, start_s=video.start_s + stamps[0] / 1e9)
        # Half the time between two frames: more, and this is the picture of another moment.
        tolerance_ns = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 1e9
        for number, (stamp_ns, (found_ns, image)) in enumerate(zip(stamps, frames, strict=False)):
            away_ns = found_ns - start_ns - stamp_ns
            if abs(away_ns) >= tolerance_ns:
                raise JepaExportError(
                    f"{self.name}: frame {number} in {video.path} is {away_ns / 1e9:+.3f} s from its time "
                    "stamp; the video does not belong to the episode, or lost frames"
                )
            yield image

    def _images(self) -> Iterator[Image]:
        """Images kept in the table, as PNG or JPEG."""
        camera = self._choice.camera
        cells = _read(self._table, (camera,), episode=self._index)[camera].to_pylist()
        for number, cell in enumerate(cells):
            content = cell.get("bytes") if isinstance(cell, dict) else None
            if content is None:
                raise JepaExportError(
                    f"{self.name}: row {number} of {self._table} holds no image in {camera}"
                )
            try:
                yield decode(content)
            except FrameError as error:
                raise JepaExportError(f"{self.name}: image {number} in {self._table}: {error}") from error

    def _stamps(self) -> Stamps:
        found = [np.ravel(value)[:1] for value in self._numbers("timestamp")]
        try:
            seconds = np.array(found, np.float64).ravel()
        except ValueError as error:
            raise JepaExportError(f"{self.name}: timestamp in {self._table}: {error}") from error
        if len(seconds) == 0 or len(seconds) != self._length or not np.isfinite(seconds).all():
            raise JepaExportError(
                f"{self.name}: {self._table} has {int(np.isfinite(seconds).sum())} time stamps of it, "
                f"meta/ says {self._length}; copy the data set again"
            )
        return np.round(seconds * 1e9).astype(np.int64)

    def _numbers(self, column: str) -> list[Any]:
        """A column of this episode's rows."""
        actions = () if self._choice.action is None else (self._choice.action,)
        columns = ("episode_index", "timestamp", *actions)
        table = _kept(self._table, columns, file_hash(self._table))
        mine = np.asarray(table["episode_index"]) == self._index
        numbers: list[Any] = table[column].filter(mine).to_pylist()
        return numbers


def episodes(folder: Path, options: Mapping[str, str]) -> list[EpisodeOrigin]:
    """The episodes of the data set in ``folder``.

    Args:
        options: ``camera``, a feature of images (may be left out where there is one); ``action``, a feature
            and its components (``action:shoulder_pan.pos,gripper.pos``; if left out, all of ``action`` where
            there is one; ``none``: no actions).

    Raises:
        JepaExportError: it is of another format, what it says of itself is missing or damaged, or there is no
            such camera or action.
    """
    info = _read_info(folder)
    version = str(info["codebase_version"])
    try:
        choice = _choose(folder, info["features"], options)
        if version.startswith("v2."):
            found = list(_listed_v2(folder, info, choice))
        elif version.startswith("v3."):
            found = list(_listed_v3(folder, info, choice))
        else:
            raise JepaExportError(
                f"{folder}: a LeRobot data set of format {version}; v2.0, v2.1 and v3.0 can be read: "
                "convert it with LeRobot's own scripts"
            )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise JepaExportError(f"{folder}: meta/ does not describe its episodes: {error!r}") from error
    if not found:
        raise JepaExportError(f"{folder}: there is no episode in this data set")
    return found


def _listed_v2(folder: Path, info: dict[str, Any], choice: _Choice) -> Iterator[EpisodeOrigin]:
    path = folder / "meta/episodes.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise JepaExportError(f"{path}: cannot be read: {error.strerror}; copy the data set again") from error
    for line in lines:
        entry = json.loads(line)
        index = int(entry["episode_index"])
        keys = {"episode_index": index, "episode_chunk": index // int(info["chunks_size"])}
        yield EpisodeOrigin(
            folder,
            index,
            int(entry["length"]),
            _named(folder, info["data_path"], **keys),
            _video(folder, info, choice, keys, 0.0),
            choice,
            shared=False,
        )


def _listed_v3(folder: Path, info: dict[str, Any], choice: _Choice) -> Iterator[EpisodeOrigin]:
    files = sorted(folder.glob("meta/episodes/*/*.parquet"))
    if not files:
        raise JepaExportError(f"{folder}/meta/episodes: no parquet file in there; copy the data set again")
    data = {key: f"data/{key}" for key in ("chunk_index", "file_index")}
    film = {key: f"videos/{choice.camera}/{key}" for key in ("chunk_index", "file_index", "from_timestamp")}
    if not _is_video(info, choice):
        film = {}
    for file in files:
        columns = ("episode_index", "length", *data.values(), *film.values())
        for entry in _read(file, columns).to_pylist():
            place = {key: entry[column] for key, column in film.items()}
            yield EpisodeOrigin(
                folder,
                int(entry["episode_index"]),
                int(entry["length"]),
                _named(folder, info["data_path"], **{key: entry[column] for key, column in data.items()}),
                _video(folder, info, choice, place, float(place.get("from_timestamp", 0))),
                choice,
                shared=True,
            )


def _video(
    folder: Path, info: dict[str, Any], choice: _Choice, place: dict[str, Any], start_s: float
) -> _Video | None:
    if not _is_video(info, choice):
        return None
    return _Video(_named(folder, info["video_path"], video_key=choice.camera, **place), start_s)


def _named(folder: Path, pattern: str, **keys: Any) -> Path:
    """The file of the data set that its description names. It may be a link: those of the Hub's cache are."""
    name = PurePosixPath(pattern.format(**keys))
    if name.is_absolute() or ".." in name.parts:
        raise JepaExportError(f"{folder}: meta/ names {name}, which is not in the data set")
    return folder / name


def _is_video(info: dict[str, Any], choice: _Choice) -> bool:
    """Or else its images are in the table."""
    return bool(info["features"][choice.camera]["dtype"] == "video")


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise JepaExportError(f"{path}: cannot be read: {error}") from error
    needed = {"codebase_version", "features", "data_path"}
    missing = sorted(needed - info.keys()) if isinstance(info, dict) else sorted(needed)
    if missing or not isinstance(info["features"], dict):
        raise JepaExportError(f"{path}: not the description of a data set: {', '.join(missing)} missing")
    return info


def _choose(folder: Path, features: dict[str, Any], options: Mapping[str, str]) -> _Choice:
    cameras = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    camera = options.get("camera") or (cameras[0] if len(cameras) == 1 else None)
    if camera not in cameras:
        what = "several cameras, choose one with ?camera=NAME" if camera is None else f"no camera {camera}"
        raise JepaExportError(f"{folder}: {what}; cameras: {', '.join(cameras) or 'none'}")
    numbers = tuple(name for name, feature in features.items() if str(feature.get("dtype"))[:5] == "float")
    asked = options.get("action", "action" if "action" in features else "none")
    if asked == "none":
        return _Choice(camera, None, 0, (), (), numbers)
    action, _, listed = asked.partition(":")
    if str(features.get(action, {}).get("dtype")).startswith(("int", "uint", "bool")):
        raise JepaExportError(
            f"{folder}: {action} holds {features[action]['dtype']}, which may name choices, and of choices "
            "there is no mean to train on: store it as float32 if its numbers are quantities, choose another "
            "(?action=NAME), or none (?action=none)"
        )
    if action not in numbers:
        raise JepaExportError(
            f"{folder}: no action {action}; features of numbers: {', '.join(numbers) or 'none'}"
        )
    names = _component_names(action, features[action])
    chosen = tuple(listed.split(",")) if listed else names
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise JepaExportError(f"{folder}: {action} has no {', '.join(unknown)}; it has: {', '.join(names)}")
    if len(set(chosen)) < len(chosen):
        raise JepaExportError(f"{folder}: an action is made of different numbers, got {', '.join(chosen)}")
    return _Choice(camera, action, len(names), chosen, tuple(map(names.index, chosen)), numbers)


def _component_names(action: str, feature: dict[str, Any]) -> tuple[str, ...]:
    """Names are a list, lists by kind ({"motors": […]}), or missing."""
    count = int(np.prod(feature["shape"]))
    given = feature.get("names")
    if isinstance(given, dict):
        given = [name for names in given.values() if isinstance(names, list) for name in names]
    names = tuple(str(name) for name in given or ())
    return names if len(set(names)) == count else tuple(f"{action}[{index}]" for index in range(count))


@lru_cache(maxsize=4)
def _kept(path: Path, columns: tuple[str, ...], content: str) -> Any:
    # Many episodes share a file.
    del content
    return _read(path, columns)


@lru_cache(maxsize=64)
def _hashes(path: Path, columns: tuple[str, ...], content: str) -> dict[int, str]:
    """By episode, a hash of what its rows of a parquet file hold in ``columns``."""
    del content
    found: dict[int, Any] = {}
    for batch in _read(path, ("episode_index", *columns)).to_batches(max_chunksize=_ROWS_AT_ONCE):
        lists = [column.to_pylist() for column in batch.columns]
        for episode, *row in zip(*lists, strict=True):
            found.setdefault(episode, hashlib.sha256()).update(repr(row).encode())
    return {episode: rows.hexdigest() for episode, rows in found.items()}


def _read(path: Path, columns: tuple[str, ...], *, episode: int | None = None) -> Any:
    """Columns of a parquet file as an Arrow table: all rows, or those of one episode."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise JepaExportError(
            "reading LeRobot data sets needs pyarrow: pip install 'jepa-edge[export]' (package pyarrow)"
        ) from None
    filters = None if episode is None else [("episode_index", "==", episode)]
    try:
        return parquet.read_table(path, columns=list(dict.fromkeys(columns)), filters=filters)
    except (OSError, pyarrow.ArrowException) as error:
        raise JepaExportError(f"{path}: cannot be read ({error}); copy the data set again") from error
