"""The library of drives on disk."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.errors import JepaExportError
from jepa_recipes.first_person import library
from jepa_recipes.first_person.library import DriveLibrary, LibrarySize, build_library, take_layouts
from jepa_sim.worlds.first_person.layouts import TEXTURE, PackedLayouts
from jepa_sim.worlds.first_person.textures import HELD_OUT_TEXTURES, TEXTURES
from tests.errors import code

SIZE = LibrarySize(layouts=3, drives=2, steps=4, layouts_per_file=2)


def build(folder: Path, *, held_out: bool = False) -> DriveLibrary:
    return build_library(folder, (1, 2), SIZE, held_out=held_out, title="drives")


def arrays(found: DriveLibrary) -> dict[str, np.ndarray]:
    layouts = {field.name: getattr(found.layouts, field.name) for field in fields(PackedLayouts)}
    return layouts | {name: getattr(found, name) for name in ("which", "poses", "odometry", "commands")}


def textures(layouts: PackedLayouts) -> np.ndarray:
    solids = [rows[:count, TEXTURE] for rows, count in zip(layouts.solids, layouts.solid_count, strict=True)]
    rooms = layouts.shape.prod(axis=1)
    surfaces = [rows[:count].ravel() for rows, count in zip(layouts.surfaces, rooms, strict=True)]
    return np.concatenate([*solids, *surfaces])


def test_interrupted_library_continues_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = arrays(build(tmp_path / "whole"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    write, folder = library._write, tmp_path / "resumed"
    monkeypatch.setattr(
        library, "_write", lambda part, path: (stopped if path.stem == "drives_0001" else write)(part, path)
    )
    with pytest.raises(KeyboardInterrupt):
        build(folder)
    before = (folder / "drives_0000.npz").stat().st_mtime_ns
    monkeypatch.undo()
    found = arrays(build(folder))
    assert (folder / "drives_0000.npz").stat().st_mtime_ns == before
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_library_counts_layouts_across_files(tmp_path: Path) -> None:
    found = build(tmp_path)
    assert len(found.layouts) == 3 and len(found) == 6
    assert found.which.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.poses.shape == found.odometry.shape == (6, 4, 3) and found.commands.shape == (6, 3, 2)


def test_training_layouts_never_use_held_out_textures(tmp_path: Path) -> None:
    first_held_out = TEXTURES - HELD_OUT_TEXTURES
    assert textures(build(tmp_path / "training").layouts).max() < first_held_out
    assert textures(build(tmp_path / "held_out", held_out=True).layouts).min() >= first_held_out


def test_damaged_file_is_reported(tmp_path: Path) -> None:
    build(tmp_path)
    file = tmp_path / "drives_0001.npz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(JepaExportError, check=code("training.library_damaged")):
        build(tmp_path)


def test_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JepaExportError, check=code("training.not_writable")):
        build(tmp_path / "file")


def test_taken_layouts_are_copies(drives: DriveLibrary) -> None:
    before = drives.layouts.solids.copy()
    taken = take_layouts(drives.layouts, np.array([2, 0, 2]))
    np.testing.assert_array_equal(taken.solids, before[[2, 0, 2]])
    taken.solids[:] = 0
    np.testing.assert_array_equal(drives.layouts.solids, before)
