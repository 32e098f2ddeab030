"""LeRobot data sets on disk, formats v2.x and v3.0.

Described in ``docs/source/lerobot-dataset-v3.mdx`` of huggingface/lerobot. ``meta/info.json`` names the
features, the rate, and the paths. In v2.x each episode has a parquet file and one video per camera, and
``meta/episodes.jsonl`` lists them; in v3.0 many episodes share a file, and ``meta/episodes/*/*.parquet``
gives the file and the start time in its video.
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
from jepa_runtime.imaging import Image, decode
from jepa_runtime.sources import UNKNOWN_UNIT, Commands, Frame, Stamps

INFO = Path("meta/info.json")
# Rows converted to Python objects at a time: they may contain images.
_ROWS_AT_ONCE = 256
# Episodes of one file are prepared concurrently: one thread hashes the file, the others wait for it.
_HASHING = Lock()


@dataclass(frozen=True)
class _Video:
    """Location of the frames of an episode: a video, and the start time in it [s]."""

    path: Path
    start_s: float


@dataclass(frozen=True)
class _Selection:
    """What is read of a data set.

    Attributes:
        camera: Feature of images.
        action: Feature of actions (None: no actions).
        size: Number of its components.
        names: Names of the selected components.
        places: Indices of the selected components.
        numbers: All features of numbers.
    """

    camera: str
    action: str | None
    size: int
    names: tuple[str, ...]
    places: tuple[int, ...]
    numbers: tuple[str, ...]


class EpisodeOrigin:
    """One episode of a data set; ``shared``: its table contains other episodes, or may later."""

    def __init__(
        self,
        folder: Path,
        index: int,
        length: int,
        table: Path,
        video: _Video | None,
        selection: _Selection,
        *,
        shared: bool,
    ) -> None:
        self.name = f"{folder} (episode {index})"
        self._index, self._length, self._table, self._shared = index, length, table, shared
        self._video, self._selection = video, selection

    def identity(self) -> str:
        # Independent of the selected camera and actions: it is the same recording.
        return self._rows(*self._selection.numbers)

    def frames_key(self) -> str:
        camera = self._selection.camera
        if self._video is None:
            return f"{self._rows(camera)} {camera}"
        if not self._shared:
            return f"{self._rows()} {file_hash(self._video.path)} {self._video.start_s}"
        rows, start_s, stamps = self._rows(), self._video.start_s, self._stamps()
        # An image may be up to half a frame period late.
        late_ns = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 1e6
        first_s, end_s = stamps[0] / 1e9, (stamps[-1] + late_ns) / 1e9
        with _HASHING:
            video = stretch_hash(self._video.path, start_s + first_s, start_s + end_s)
        return f"{rows} {video} {start_s}"

    def _rows(self, *columns: str) -> str:
        """Return a hash of these columns and the time stamps, independent of other episodes in the table."""
        content = file_hash(self._table)
        if self._shared:
            with _HASHING:
                hashes = _hashes(self._table, tuple(dict.fromkeys(("timestamp", *columns))), content)
            content = hashes.get(self._index, "")
        return f"{content} {self._index}"

    def commands(self) -> Commands | None:
        selection = self._selection
        if selection.action is None:
            return None
        try:
            rows = [np.reshape(value, selection.size) for value in self._numbers(selection.action)]
            values = [row[list(selection.places)] for row in rows]
            units = (UNKNOWN_UNIT,) * len(selection.names)
            return Commands(selection.names, units, self._stamps(), np.array(values, np.float32))
        except (ValueError, IndexError, TypeError) as error:
            raise JepaExportError(
                f"{self.name}: {selection.action} in {self._table}: {error}", code="data.lerobot_damaged"
            ) from error

    def frames(self) -> Iterator[Frame]:
        stamps = self._stamps().tolist()
        images = self._images() if self._video is None else self._decoded(self._video, stamps)
        count = 0
        for stamp_ns, image in zip(stamps, images, strict=False):
            yield Frame(image, stamp_ns, "", count)
            count += 1
        if count < len(stamps):
            raise JepaExportError(
                f"{self.name}: its video ends after {count} of {len(stamps)} frames; copy it again",
                code="data.video_truncated",
            )

    def _decoded(self, video: _Video, stamps: list[int]) -> Iterator[Image]:
        start_ns = round(video.start_s * 1e9)
        frames = decoded(video.path, start_s=video.start_s + stamps[0] / 1e9)
        # Half a frame period: an image that is farther off belongs to another time.
        tolerance_ns = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 1e9
        for number, (stamp_ns, (found_ns, image)) in enumerate(zip(stamps, frames, strict=False)):
            away_ns = found_ns - start_ns - stamp_ns
            if abs(away_ns) >= tolerance_ns:
                raise JepaExportError(
                    f"{self.name}: frame {number} in {video.path} is {away_ns / 1e9:+.3f} s from its time "
                    "stamp: "
                    "the video does not belong to the episode, or lacks frames; copy the data set again",
                    code="data.video_out_of_sync",
                )
            yield image

    def _images(self) -> Iterator[Image]:
        """Yield images that are stored in the table, as PNG or JPEG."""
        camera = self._selection.camera
        cells = _read(self._table, (camera,), episode=self._index)[camera].to_pylist()
        for number, cell in enumerate(cells):
            content = cell.get("bytes") if isinstance(cell, dict) else None
            if content is None:
                raise JepaExportError(
                    f"{self.name}: row {number} of {self._table} has no image in {camera}",
                    code="data.lerobot_damaged",
                )
            try:
                yield decode(content)
            except FrameError as error:
                raise JepaExportError(
                    f"{self.name}: image {number} in {self._table}: {error}", code="data.lerobot_damaged"
                ) from error

    def _stamps(self) -> Stamps:
        found = [np.ravel(value)[:1] for value in self._numbers("timestamp")]
        try:
            seconds = np.array(found, np.float64).ravel()
        except ValueError as error:
            raise JepaExportError(
                f"{self.name}: timestamp in {self._table}: {error}", code="data.lerobot_damaged"
            ) from error
        if len(seconds) == 0 or len(seconds) != self._length or not np.isfinite(seconds).all():
            raise JepaExportError(
                f"{self.name}: {self._table} has {int(np.isfinite(seconds).sum())} time stamps, meta/ "
                "announces "
                f"{self._length}; copy the data set again",
                code="data.lerobot_damaged",
            )
        return np.round(seconds * 1e9).astype(np.int64)

    def _numbers(self, column: str) -> list[Any]:
        """Return a column of this episode's rows."""
        actions = () if self._selection.action is None else (self._selection.action,)
        columns = ("episode_index", "timestamp", *actions)
        table = _read_cached(self._table, columns, file_hash(self._table))
        own = np.asarray(table["episode_index"]) == self._index
        numbers: list[Any] = table[column].filter(own).to_pylist()
        return numbers


def episodes(folder: Path, options: Mapping[str, str]) -> list[EpisodeOrigin]:
    """Return the episodes of the data set in ``folder``.

    Args:
        folder: The data set.
        options: ``camera``, a feature of images (optional if there is only one); ``action``, a feature and
            its components (``action:shoulder_pan.pos,gripper.pos``; default: all of ``action`` if it exists;
            ``none``: no actions).

    Raises:
        JepaExportError: The format is not supported, the metadata is missing or damaged, or the camera or
            action does not exist.
    """
    info = _read_info(folder)
    version = str(info["codebase_version"])
    try:
        selection = _select(folder, info["features"], options)
        if version.startswith("v2."):
            found = list(_list_v2(folder, info, selection))
        elif version.startswith("v3."):
            found = list(_list_v3(folder, info, selection))
        else:
            raise JepaExportError(
                f"{folder}: LeRobot format {version} is not supported (supported: v2.0, v2.1, v3.0); "
                "convert the "
                "data set with LeRobot's own scripts",
                code="data.lerobot_version",
            )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise JepaExportError(
            f"{folder}: meta/ does not describe its episodes: {error!r}", code="data.lerobot_damaged"
        ) from error
    if not found:
        raise JepaExportError(f"{folder}: the data set has no episodes", code="data.no_recordings")
    return found


def _list_v2(folder: Path, info: dict[str, Any], selection: _Selection) -> Iterator[EpisodeOrigin]:
    path = folder / "meta/episodes.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise JepaExportError(
            f"{path}: cannot be read: {error.strerror}; copy the data set again", code="data.lerobot_damaged"
        ) from error
    for line in lines:
        entry = json.loads(line)
        index = int(entry["episode_index"])
        keys = {"episode_index": index, "episode_chunk": index // int(info["chunks_size"])}
        yield EpisodeOrigin(
            folder,
            index,
            int(entry["length"]),
            _data_file(folder, info["data_path"], **keys),
            _video(folder, info, selection, keys, 0.0),
            selection,
            shared=False,
        )


def _list_v3(folder: Path, info: dict[str, Any], selection: _Selection) -> Iterator[EpisodeOrigin]:
    files = sorted(folder.glob("meta/episodes/*/*.parquet"))
    if not files:
        raise JepaExportError(
            f"{folder}/meta/episodes: no parquet file found; copy the data set again",
            code="data.lerobot_damaged",
        )
    data = {key: f"data/{key}" for key in ("chunk_index", "file_index")}
    video_columns = {
        key: f"videos/{selection.camera}/{key}" for key in ("chunk_index", "file_index", "from_timestamp")
    }
    if not _is_video(info, selection):
        video_columns = {}
    for file in files:
        columns = ("episode_index", "length", *data.values(), *video_columns.values())
        for entry in _read(file, columns).to_pylist():
            place = {key: entry[column] for key, column in video_columns.items()}
            yield EpisodeOrigin(
                folder,
                int(entry["episode_index"]),
                int(entry["length"]),
                _data_file(folder, info["data_path"], **{key: entry[column] for key, column in data.items()}),
                _video(folder, info, selection, place, float(place.get("from_timestamp", 0))),
                selection,
                shared=True,
            )


def _video(
    folder: Path, info: dict[str, Any], selection: _Selection, place: dict[str, Any], start_s: float
) -> _Video | None:
    if not _is_video(info, selection):
        return None
    return _Video(_data_file(folder, info["video_path"], video_key=selection.camera, **place), start_s)


def _data_file(folder: Path, pattern: str, **keys: Any) -> Path:
    """Return a file of the data set from its path pattern; it may be a link, as in the Hub's cache."""
    name = PurePosixPath(pattern.format(**keys))
    if name.is_absolute() or ".." in name.parts:
        raise JepaExportError(
            f"{folder}: meta/ refers to {name}, which is outside the data set", code="data.path_outside"
        )
    return folder / name


def _is_video(info: dict[str, Any], selection: _Selection) -> bool:
    """Return whether the images of the camera are in a video; otherwise they are in the table."""
    return bool(info["features"][selection.camera]["dtype"] == "video")


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise JepaExportError(f"{path}: cannot be read: {error}", code="data.lerobot_damaged") from error
    needed = {"codebase_version", "features", "data_path"}
    missing = sorted(needed - info.keys()) if isinstance(info, dict) else sorted(needed)
    if missing or not isinstance(info["features"], dict):
        raise JepaExportError(
            f"{path}: not the description of a data set; missing: {', '.join(missing)}",
            code="data.lerobot_damaged",
        )
    return info


def _select(folder: Path, features: dict[str, Any], options: Mapping[str, str]) -> _Selection:
    cameras = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    camera = options.get("camera") or (cameras[0] if len(cameras) == 1 else None)
    if camera not in cameras:
        reason = "several cameras; select one with ?camera=NAME" if camera is None else f"no camera {camera}"
        raise JepaExportError(
            f"{folder}: {reason} (cameras: {', '.join(cameras) or 'none'})", code="data.unknown_camera"
        )
    numbers = tuple(name for name, feature in features.items() if str(feature.get("dtype"))[:5] == "float")
    requested = options.get("action", "action" if "action" in features else "none")
    if requested == "none":
        return _Selection(camera, None, 0, (), (), numbers)
    action, _, listed = requested.partition(":")
    if str(features.get(action, {}).get("dtype")).startswith(("int", "uint", "bool")):
        raise JepaExportError(
            f"{folder}: {action} has type {features[action]['dtype']}, which may encode categories, and "
            "these "
            "have no mean to train on; store it as float32 if it is a quantity, select another feature "
            "(?action=NAME), or none (?action=none)",
            code="data.action_type",
        )
    if action not in numbers:
        raise JepaExportError(
            f"{folder}: no action {action} (features of numbers: {', '.join(numbers) or 'none'})",
            code="data.unknown_action",
        )
    names = _component_names(action, features[action])
    selected = tuple(listed.split(",")) if listed else names
    unknown = [name for name in selected if name not in names]
    if unknown:
        raise JepaExportError(
            f"{folder}: {action} has no component {', '.join(unknown)} (components: {', '.join(names)})",
            code="data.unknown_action",
        )
    if len(set(selected)) < len(selected):
        raise JepaExportError(
            f"{folder}: the components of an action must differ, got {', '.join(selected)}",
            code="data.duplicate_action",
        )
    return _Selection(camera, action, len(names), selected, tuple(map(names.index, selected)), numbers)


def _component_names(action: str, feature: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the components: a list, lists by group ({"motors": […]}), or missing."""
    count = int(np.prod(feature["shape"]))
    given = feature.get("names")
    if isinstance(given, dict):
        given = [name for names in given.values() if isinstance(names, list) for name in names]
    names = tuple(str(name) for name in given or ())
    return names if len(set(names)) == count else tuple(f"{action}[{index}]" for index in range(count))


@lru_cache(maxsize=4)
def _read_cached(path: Path, columns: tuple[str, ...], content: str) -> Any:
    # Many episodes share a file.
    del content
    return _read(path, columns)


@lru_cache(maxsize=64)
def _hashes(path: Path, columns: tuple[str, ...], content: str) -> dict[int, str]:
    """Return for each episode a hash of its rows of a parquet file in ``columns``."""
    del content
    found: dict[int, Any] = {}
    for batch in _read(path, ("episode_index", *columns)).to_batches(max_chunksize=_ROWS_AT_ONCE):
        lists = [column.to_pylist() for column in batch.columns]
        for episode, *row in zip(*lists, strict=True):
            found.setdefault(episode, hashlib.sha256()).update(repr(row).encode())
    return {episode: rows.hexdigest() for episode, rows in found.items()}


def _read(path: Path, columns: tuple[str, ...], *, episode: int | None = None) -> Any:
    """Return columns of a parquet file as an Arrow table: all rows, or those of one episode."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise JepaExportError(
            "LeRobot data sets: pyarrow is not installed; run pip install 'jepa-edge[export]'",
            code="data.missing_package",
        ) from None
    filters = None if episode is None else [("episode_index", "==", episode)]
    try:
        return parquet.read_table(path, columns=list(dict.fromkeys(columns)), filters=filters)
    except (OSError, pyarrow.ArrowException) as error:
        raise JepaExportError(
            f"{path}: cannot be read: {error}; copy the data set again", code="data.lerobot_damaged"
        ) from error
