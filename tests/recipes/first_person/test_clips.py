"""Clips: what is shown, and what the odometry says about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person import clips
from jepa_recipes.first_person.clips import Clips, ClipShape, sample_clips
from jepa_recipes.first_person.library import DriveLibrary
from jepa_sim.worlds.first_person.layouts import TEXTURE, PackedLayouts
from jepa_sim.worlds.first_person.textures import HELD_OUT_TEXTURES, TEXTURES

SHAPE = ClipShape(drives=4, frames=6, turned=2, consecutive=2)


def sample(drives: DriveLibrary, seed: int = 0, *, augment: bool = True) -> Clips:
    return sample_clips(drives, SHAPE, np.random.default_rng(seed), augment=augment)


def rendered_layouts(drives: DriveLibrary, monkeypatch: pytest.MonkeyPatch) -> PackedLayouts:
    found = list[PackedLayouts]()
    render = clips.render
    monkeypatch.setattr(
        clips, "render", lambda layouts, *args: (found.append(layouts), render(layouts, *args))[1]
    )
    sample(drives)
    return found[0]


def measured_turns(found: Clips) -> NDArray[np.floating]:
    """Return by how much the turned frames are turned, by odometry [P]."""
    heading = found.odometry[..., 2].flatten()
    return heading[found.turns.second] - heading[found.turns.first]


def test_clips_have_one_image_and_command_for_each_pose(drives: DriveLibrary) -> None:
    found = sample(drives)
    assert found.images.shape == (4, 6, 72, 96, 3) and found.images.dtype == np.uint8
    assert found.odometry.shape == (4, 6, 3) and found.commands.shape == (4, 6, 2)
    assert found.images.std() > 10


def test_true_poses_affect_images_only(drives: DriveLibrary) -> None:
    found, moved = sample(drives), sample(replace(drives, poses=drives.poses + np.float32(0.1)))
    assert not np.array_equal(found.images, moved.images)
    np.testing.assert_array_equal(found.odometry, moved.odometry)
    np.testing.assert_array_equal(found.commands, moved.commands)


def test_last_frames_are_earlier_ones_turned_by_the_measured_angle(drives: DriveLibrary) -> None:
    found = sample(drives)
    turns, poses = found.turns, found.odometry.reshape(-1, 3)
    change = poses[turns.second] - poses[turns.first]
    np.testing.assert_allclose(change[:, :2], 0)
    assert len(turns.first) == 8 and (np.abs(change[:, 2]) > 0.01).any()
    assert set(turns.second % 6) == {4, 5} and (turns.first % 6 < 4).all()
    assert (turns.first // 6 == turns.second // 6).all()


def test_most_drives_look_to_one_side_in_their_turned_frames(drives: DriveLibrary) -> None:
    shape = ClipShape(drives=200, frames=6, turned=3, consecutive=0)
    angles = measured_turns(sample_clips(drives, shape, np.random.default_rng(0))).reshape(200, 3)
    aside = np.ptp(angles, axis=1) < 1.9
    assert 0.75 < aside.mean() < 0.95 and np.ptp(angles[aside].mean(axis=1)) > 1.5


def test_some_turned_frames_look_back(drives: DriveLibrary) -> None:
    shape = ClipShape(drives=200, frames=6, turned=3, consecutive=0)
    angles = np.abs(measured_turns(sample_clips(drives, shape, np.random.default_rng(0))))
    assert 0.05 < (angles > 2.5).mean() < 0.2


def test_frames_of_drives_that_are_not_consecutive_are_far_apart(drives: DriveLibrary) -> None:
    shape = ClipShape(drives=60, frames=6, turned=2, consecutive=20)
    odometry = sample_clips(drives, shape, np.random.default_rng(0)).odometry[:, :4]
    apart = np.hypot(*(odometry[:, 3] - odometry[:, 0])[:, :2].T)
    assert apart[20:].mean() > 2 * apart[:20].mean()


def test_turned_image_is_that_of_the_turned_camera(
    drives: DriveLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The odometry reports another angle than the camera has turned by, as that of a robot does."""
    poses = list[np.ndarray]()
    render = clips.render
    monkeypatch.setattr(
        clips, "render", lambda layouts, at, which: (poses.append(at), render(layouts, at, which))[1]
    )
    found = sample(drives)
    turned = poses[0][found.turns.second, 2] - poses[0][found.turns.first, 2]
    errors = np.abs(turned - measured_turns(found))
    assert 0 < errors.max() < 0.15


def test_consecutive_drives_have_the_commands_between_their_frames(drives: DriveLibrary) -> None:
    found = sample(drives)
    for drive in range(2):
        runs = [
            (number, start)
            for number in range(len(drives))
            for start in range(drives.odometry.shape[1] - 4)
            if np.array_equal(drives.odometry[number, start : start + 4], found.odometry[drive, :4])
        ]
        assert len(runs) == 1
        number, start = runs[0]
        np.testing.assert_array_equal(found.commands[drive, :4], drives.commands[number, start : start + 4])


def test_augmentation_changes_images_and_never_uses_held_out_textures(
    drives: DriveLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not np.array_equal(sample(drives).images, sample(drives, augment=False).images)
    before = drives.layouts.solids.copy()
    layouts = rendered_layouts(drives, monkeypatch)
    first_held_out = TEXTURES - HELD_OUT_TEXTURES
    assert layouts.solids[..., TEXTURE].max() < first_held_out and layouts.surfaces.max() < first_held_out
    np.testing.assert_array_equal(drives.layouts.solids, before)


def test_augmentation_keeps_equal_textures_equal(
    drives: DriveLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wall that consists of several solids has one texture before and after."""
    layouts = rendered_layouts(drives, monkeypatch)
    for number in range(len(layouts)):
        (original,) = {
            which for which in range(3)
            if np.array_equal(drives.layouts.solids[which, :, :4], layouts.solids[number, :, :4])
        }  # fmt: skip
        old, new = drives.layouts.solids[original, :, TEXTURE], layouts.solids[number, :, TEXTURE]
        assert len(set(zip(old, new, strict=True))) == len(set(old)) == len(set(new))
