"""Clips are a step apart, and have the executed actions if these are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import CANDIDATES, golden_clips
from jepa_export.evaluation.recorded_clips import recorded_clips
from jepa_export.evaluation.two_rooms_clips import TELEPORT_M, Scenes, draw, drives
from jepa_runtime.bundle import Bundle, Manifest
from jepa_runtime.errors import SourceError
from tests.bundles import make_bundle
from tests.errors import code
from tests.runtime.bags import Entry, image, twist, write_bag

STEP_NS = 200_000_000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return the manifest of W = 2, H = 4, frames of 32 x 32, actions linear.x and linear.y."""
    return make_bundle(tmp_path_factory.mktemp("clips") / "toy", history_size=2).manifest


def image_folder(folder: Path, count: int) -> str:
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 48, 3), index, np.uint8))
    return str(folder)


def drive(folder: Path, seconds: float, *, gap: int | None = None) -> str:
    """Write images at 30 Hz whose gray level counts them, and commands that grow by 0.01 with each image."""
    entries: list[Entry] = []
    for index in range(round(30 * seconds)):
        stamp = 10**9 + round(index * 1e9 / 30)
        if gap is None or index < gap or index > gap + 20:
            entries.append(image(stamp, index))
        entries.append(twist(stamp, 0.01 * index))
    return str(write_bag(folder / "drive.mcap", entries))


def test_image_clips_cover_the_images_with_random_candidates(manifest: Manifest, tmp_path: Path) -> None:
    clips = recorded_clips([image_folder(tmp_path / "film", 9)], manifest, count=4, seed=0)
    grays = clips.frames.mean(axis=(2, 3, 4)).round().astype(int).tolist()
    assert grays == [[0, 1], [2, 3], [5, 6], [7, 8]]
    assert not clips.executed and clips.actions.shape == (4, CANDIDATES, manifest.horizon, 2)
    assert len({candidate.tobytes() for candidate in clips.actions.reshape(-1, manifest.horizon, 2)}) > 8


def test_bag_clips_have_frames_one_step_apart_and_mean_actions(manifest: Manifest, tmp_path: Path) -> None:
    spec = drive(tmp_path, 4) + "?action=/cmd_vel:linear.x,linear.y"
    clips = recorded_clips([spec], manifest, count=3, seed=0)
    assert clips.executed and clips.frames.shape[1] == 2 + manifest.horizon
    grays = clips.frames.mean(axis=(2, 3, 4)).round().astype(int)
    assert (np.diff(grays, axis=1) == 6).all()
    # Six commands are held one after the other between two frames.
    means = 0.01 * (grays[:, :-1] + 2.5)
    executed = np.concatenate([clips.history_actions, clips.actions[:, 0]], axis=1)
    np.testing.assert_allclose(executed[..., 0], means, atol=1e-3)
    assert (executed[..., 1] == 0).all()


def test_actions_between_images_are_the_mean_of_all_commands(manifest: Manifest, tmp_path: Path) -> None:
    """Four commands per image: one active at the image, three that are not."""
    entries = [image(10**9 + index * STEP_NS, index) for index in range(12)]
    entries += [twist(10**9 + index * STEP_NS // 4, 0.1 * (index % 4)) for index in range(48)]
    spec = f"{write_bag(tmp_path / 'drive.mcap', entries)}?action=/cmd_vel:linear.x,linear.y"
    clips = recorded_clips([spec], manifest, count=3, seed=0)
    np.testing.assert_allclose(clips.history_actions[..., 0], 0.15, atol=1e-6)
    np.testing.assert_allclose(clips.actions[:, 0, :, 0], 0.15, atol=1e-6)


def test_clips_of_a_long_recording_cover_all_of_it(manifest: Manifest, tmp_path: Path) -> None:
    """The last clip of six frames, six images apart, ends with the last image of 240."""
    spec = drive(tmp_path, 8) + "?action=/cmd_vel:linear.x,linear.y"
    clips = recorded_clips([spec], manifest, count=3, seed=0)
    grays = clips.frames.mean(axis=(2, 3, 4)).round().astype(int)
    assert grays[:, 0].tolist() == [0, 104, 209] and grays[-1, -1] == 239


def test_clips_never_span_a_gap(manifest: Manifest, tmp_path: Path) -> None:
    spec = drive(tmp_path, 6, gap=70) + "?action=/cmd_vel:linear.x,linear.y"
    grays = recorded_clips([spec], manifest, count=50, seed=0).frames.mean(axis=(2, 3, 4)).round().astype(int)
    assert (np.diff(grays, axis=1) == 6).all()
    assert (grays < 70).any() and (grays > 90).any()


@pytest.mark.parametrize(("name", "expected"), [("short", "data.no_clip"), ("nowhere.mp4", "data.not_found")])
def test_source_without_clips_is_named(name: str, expected: str, manifest: Manifest, tmp_path: Path) -> None:
    image_folder(tmp_path / "short", 1)
    with pytest.raises((JepaExportError, SourceError), check=code(expected)):
        recorded_clips([str(tmp_path / name)], manifest, count=2, seed=0)


def test_video_without_frames_is_named(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "empty.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48)).release()
    with pytest.raises(JepaExportError, check=code("data.no_frames")):
        recorded_clips([str(path)], manifest, count=2, seed=0)


@pytest.mark.parametrize("fields", ["linear.x,linear.y,angular.z", "linear.y,linear.x", "linear.x,angular.z"])
def test_actions_that_differ_from_the_model_are_rejected(
    fields: str, manifest: Manifest, tmp_path: Path
) -> None:
    spec = drive(tmp_path, 2) + f"?action=/cmd_vel:{fields}"
    with pytest.raises(JepaExportError, check=code("data.action_mismatch")):
        recorded_clips([spec], manifest, count=2, seed=0)


def test_model_with_other_actions_is_not_measured_on_those_of_two_rooms(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path / "toy").manifest
    action = manifest.io.action.model_copy(
        update={"names": ("linear.x", "angular.z"), "units": ("m/s", "rad/s")}
    )
    other = manifest.model_copy(update={"io": manifest.io.model_copy(update={"action": action})})
    assert recorded_clips(["two_rooms?seed=3"], manifest, count=2, seed=0).executed
    with pytest.raises(JepaExportError, check=code("data.action_mismatch")):
        recorded_clips(["two_rooms?seed=3"], other, count=2, seed=0)


def test_golden_inputs_are_contexts(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", history_size=3)
    golden = bundle.golden()
    clips = golden_clips(golden, bundle.manifest)
    assert (clips.frames[0] == golden.frames[[1, 2, 0]]).all() and (clips.frames[2] == golden.frames).all()
    assert (clips.history_actions == golden.history_actions).all()


def test_golden_inputs_of_earlier_bundles_fill_the_whole_context(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", history_size=3, standing=True)
    golden = bundle.golden()
    clips = golden_clips(golden, bundle.manifest)
    assert clips.frames.shape[1] == 3 and not clips.executed
    assert (clips.frames == golden.frames[:, None]).all() and (clips.history_actions == 0).all()
    assert (clips.actions == golden.actions).all()


@pytest.fixture(scope="module")
def scenes(two_rooms_bundle: Path) -> Scenes:
    return draw(Bundle.open(two_rooms_bundle).manifest, layout="random", count=12, seed=3)[1]


def robot(frame: np.ndarray) -> np.ndarray:
    """Return where the frame is red, in meters of a 4 m arena."""
    red = frame[..., 0].astype(int) - frame[..., 1] > 60
    return np.argwhere(red).mean(axis=0) * 4.0 / len(frame)


def test_teleported_robot_is_beyond_reach_of_a_step(scenes: Scenes) -> None:
    for before, normal, removed in zip(
        scenes.past[:, -1], scenes.outcomes["normal"], scenes.outcomes["teleport"], strict=True
    ):
        assert np.linalg.norm(robot(normal) - robot(before)) < 0.3
        assert np.linalg.norm(robot(removed) - robot(normal)) > TELEPORT_M - 0.05


def test_removed_wall_shows_floor_and_leaves_the_robot(scenes: Scenes) -> None:
    for normal, bare in zip(scenes.outcomes["normal"], scenes.outcomes["wall removed"], strict=True):
        inside = normal[8:-8, 8:-8], bare[8:-8, 8:-8]
        dark, still_dark = ((image[..., 2].astype(int) - image[..., 0] > 10).mean() for image in inside)
        assert dark > 0.02 and still_dark < dark / 10
        assert np.linalg.norm(robot(normal) - robot(bare)) < 0.05


def test_clips_depend_only_on_the_seed(two_rooms_bundle: Path) -> None:
    manifest = Bundle.open(two_rooms_bundle).manifest
    assert drives(manifest)
    first, again, other = (draw(manifest, layout="random", count=2, seed=seed)[0] for seed in (1, 1, 2))
    assert (first.frames == again.frames).all() and (first.actions == again.actions).all()
    assert (first.frames != other.frames).any()
    assert first.executed and first.frames.shape[1] == manifest.history_size + manifest.horizon
