"""The library of layouts and drives: sampled once, in files of a few layouts; images are rendered later."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.errors import JepaExportError
from jepa_recipes.first_person.drives import explore
from jepa_runtime.util import atomic_files
from jepa_sim.worlds.first_person.layouts import PackedLayouts, pack, sample_layout

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LibrarySize:
    """Size of a library.

    Attributes:
        layouts: Number of layouts.
        drives: Drives in each layout.
        steps: Poses of a drive.
        layouts_per_file: Layouts that are sampled between two writes.
    """

    layouts: int
    drives: int
    steps: int
    layouts_per_file: int = 50


@dataclass(frozen=True)
class DriveLibrary:
    """B drives of T poses in L layouts.

    Attributes:
        layouts: The layouts.
        which: Number of the layout of each drive [B].
        poses: True poses [B, T, 3], from which images are rendered.
        odometry: Wheel odometry [B, T, 3].
        commands: Commands between two poses [B, T-1, 2].
    """

    layouts: PackedLayouts
    which: NDArray[np.int64]
    poses: Floats
    odometry: Floats
    commands: Floats

    def __len__(self) -> int:
        return len(self.which)


def build_library(
    folder: Path, seed: tuple[int, ...], size: LibrarySize, *, held_out: bool, title: str
) -> DriveLibrary:
    """Sample the library in ``folder``, or continue there, and return it.

    Args:
        folder: Folder of its files. A file that exists is not sampled again.
        seed: Seed; each file follows from it and its number alone.
        size: Size.
        held_out: Whether to use the textures that training never shows.
        title: Title of the progress bar.

    Raises:
        JepaExportError: A file cannot be read or written.
    """
    count = -(-size.layouts // size.layouts_per_file)
    paths = [folder / f"drives_{number:04}.npz" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    for number in track(missing, description=title, disable=not missing):
        layouts = min(size.layouts_per_file, size.layouts - number * size.layouts_per_file)
        part = _sample(np.random.default_rng((*seed, number)), size, layouts, held_out=held_out)
        _write(part, paths[number])
    return _joined([_read(path) for path in paths])


def take_layouts(layouts: PackedLayouts, which: NDArray[np.int64]) -> PackedLayouts:
    """Return copies of some layouts [N], in the order of their numbers ``which`` [N]."""
    return _map_layouts(lambda name: getattr(layouts, name)[which])


def _sample(rng: np.random.Generator, size: LibrarySize, count: int, *, held_out: bool) -> DriveLibrary:
    layouts = [sample_layout(rng, held_out=held_out) for _ in range(count)]
    drives = [
        explore(pack([layout]), layout, size.steps, rng) for layout in layouts for _ in range(size.drives)
    ]
    return DriveLibrary(
        pack(layouts),
        np.repeat(np.arange(count), size.drives),
        np.stack([drive.poses for drive in drives]).astype(np.float32),
        np.stack([drive.odometry for drive in drives]).astype(np.float32),
        np.stack([drive.commands for drive in drives]).astype(np.float32),
    )


def _map_layouts(array: Callable[[str], NDArray[np.generic]]) -> PackedLayouts:
    return PackedLayouts(**{field.name: array(field.name) for field in fields(PackedLayouts)})  # type: ignore[arg-type]


_COLUMNS = ("which", "poses", "odometry", "commands")


def _write(part: DriveLibrary, path: Path) -> None:
    arrays = {field.name: getattr(part.layouts, field.name) for field in fields(PackedLayouts)}
    arrays |= {name: getattr(part, name) for name in _COLUMNS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.remove_unfinished(path)
        with atomic_files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JepaExportError(
            f"{path}: cannot be written: {error.strerror or error}; the files before it are intact: free "
            "disk space and run the same command again",
            code="training.not_writable",
        ) from error


def _read(path: Path) -> DriveLibrary:
    # Damaged bytes make the reader raise any exception.
    try:
        with np.load(path, allow_pickle=False) as stored:
            layouts = _map_layouts(lambda name: stored[name])
            return DriveLibrary(layouts, *(stored[name] for name in _COLUMNS))
    except Exception as error:
        raise JepaExportError(
            f"{path}: not a file of drives, or damaged: {error}; remove it, and the same command samples it "
            "again",
            code="training.library_damaged",
        ) from error


def _joined(parts: list[DriveLibrary]) -> DriveLibrary:
    first = np.cumsum([0, *(len(part.layouts) for part in parts)])
    return DriveLibrary(
        _map_layouts(lambda name: np.concatenate([getattr(part.layouts, name) for part in parts])),
        np.concatenate([part.which + offset for part, offset in zip(parts, first, strict=False)]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS[1:]),
    )
