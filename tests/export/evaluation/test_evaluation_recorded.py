"""Evaluation on recordings: all sources of training, over their whole duration, and not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jepa_export.bundling.staging import write_report
from jepa_export.data import open_data
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import find_recordings
from jepa_export.data.provenance_marks import mark, trained_on
from jepa_export.errors import JepaExportError
from jepa_export.evaluation import recorded_clips as recorded
from jepa_export.evaluation.clips import Clips
from jepa_export.evaluation.evaluate import EvaluationPlan, evaluate
from jepa_export.evaluation.recorded_clips import recorded_clips
from jepa_runtime.bundle import Bundle, Manifest, seal
from jepa_runtime.errors import SourceError
from jepa_runtime.model import WorldModel
from jepa_runtime.sources.base import Frame, PassiveSource
from tests.bundles import make_bundle
from tests.errors import code
from tests.export.data.recordings import write_lerobot, write_video
from tests.runtime.bags import image, twist, write_bag

pytest.importorskip("av", reason="PyAV is not installed (extra export)")
STEP_NS = 200_000_000
NAMES = ["linear.x", "linear.y"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return the manifest of W = 2, H = 4, steps of 0.2 s, actions linear.x and linear.y."""
    return make_bundle(tmp_path_factory.mktemp("recorded") / "toy", history_size=2).manifest


@pytest.fixture(scope="module")
def action_free(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle of W = 2, H = 4, whose actions can only be 0."""
    folder = tmp_path_factory.mktemp("action_free") / "toy"
    fields = make_bundle(folder, history_size=2).manifest.model_dump(mode="json")
    nothing = {"low": [0, 0], "high": [0, 0], "max_norm": None}
    fields["io"]["action"] = {"names": ["none", "none_2"], "units": ["1", "1"], **nothing}
    return seal(folder, fields)


def lerobot(folder: Path, episodes: int = 4) -> str:
    """Write episodes of 20 to 23 frames at 10 Hz; an action is the episode, and the number of the frame."""
    lengths = range(20, 20 + episodes)
    return str(write_lerobot(folder / "set", lengths, version="v3.0", names=NAMES))


def bag(path: Path, speed: float) -> Path:
    stamps = [10**9 + index * STEP_NS for index in range(9)]
    messages = [message for stamp in stamps for message in (image(stamp, 1), twist(stamp, speed))]
    return write_bag(path, messages)


def episodes_of(clips: Clips) -> list[int]:
    return clips.history_actions[:, 0, 0].astype(int).tolist()


def marks(spec: str, folder: Path) -> list[str]:
    return [mark(each) for each in find_recordings(spec, FrameStore(folder / "frames", height=8, width=8))]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_evaluation_covers_all_episodes(version: str, manifest: Manifest, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", [20, 30, 25], version=version, names=NAMES)
    clips = recorded_clips([str(folder)], manifest, count=12, seed=0)
    assert clips.executed and clips.frames.shape[1] == 2 + manifest.horizon
    assert sorted(set(episodes_of(clips))) == [0, 1, 2]
    # Two frames of the recording per step: of the second to last and the last before the clip's last frame.
    assert clips.history_actions[0, 0, 1] == pytest.approx(0.5) and clips.actions[
        -1, 0, -1, 1
    ] == pytest.approx(22.5)
    assert clips.name == f"{folder} (3 of 3 recordings; the model may have been trained on these)"


def test_evaluation_options_select_as_in_distillation(manifest: Manifest, tmp_path: Path) -> None:
    spec = lerobot(tmp_path)
    assert not recorded_clips([f"{spec}?action=none"], manifest, count=2, seed=0).executed
    with pytest.raises(JepaExportError, check=code("data.unknown_action")):
        recorded_clips([f"{spec}?action=action:z"], manifest, count=2, seed=0)
    with pytest.raises(JepaExportError, check=code("data.action_mismatch")):
        recorded_clips([f"{spec}?action=action:linear.y,linear.x"], manifest, count=2, seed=0)


def test_folders_of_bags_are_combined_with_other_data(manifest: Manifest, tmp_path: Path) -> None:
    for number in range(3):
        bag(tmp_path / f"bags/{number}.mcap", float(number))
    action = "?action=/cmd_vel:linear.x,linear.y"
    alone = bag(tmp_path / "alone.mcap", 3.0)
    specs = [f"{tmp_path}/bags{action}", f"{alone}{action}"]
    clips = recorded_clips(specs, manifest, count=16, seed=0)
    assert sorted(set(episodes_of(clips))) == [0, 1, 2, 3]
    assert "(4 of 4 recordings; " in clips.name


def test_folders_with_videos_are_not_read_as_image_folders(manifest: Manifest, tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        write_video(tmp_path / f"films/{name}.mp4", range(20))
    cv2.imwrite(str(tmp_path / "films/cover.png"), np.zeros((8, 8, 3), np.uint8))
    clips = recorded_clips([str(tmp_path / "films")], manifest, count=4, seed=0)
    assert len(clips) == 4 and "(2 of 2 recordings; " in clips.name and not clips.executed


@pytest.mark.parametrize(
    ("name", "expected"),
    [("empty", "data.not_found"), ("nowhere.mp4", "data.not_found"), ("7", None)],
)
def test_invalid_recording_is_rejected_as_in_distillation(
    name: str, expected: str | None, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    spec = name if name == "7" else str(tmp_path / name)
    with pytest.raises((JepaExportError, SourceError)) as error:
        recorded_clips([spec], manifest, count=2, seed=0)
    assert isinstance(error.value, SourceError) if expected is None else error.value.code == expected


@pytest.mark.parametrize("recorded_actions", [True, False])
def test_action_free_model_is_evaluated_on_any_recording(
    recorded_actions: bool, action_free: Bundle, tmp_path: Path
) -> None:
    spec = lerobot(tmp_path) if recorded_actions else str(write_video(tmp_path / "drive.mp4", range(30)))
    clips = recorded_clips([spec], action_free.manifest, count=3, seed=0)
    assert clips.executed and clips.frames.shape[1] == 2 + action_free.manifest.horizon
    assert not clips.history_actions.any() and not clips.actions.any()


def test_predictions_of_an_action_free_model_are_compared_with_the_frames_that_followed(
    action_free: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_export.evaluation.evaluate.engine_devices", lambda: ["onnxruntime:CPU"])
    spec = str(write_video(tmp_path / "drive.mp4", range(30)))
    evaluation = evaluate(action_free, EvaluationPlan(data=(spec,), clips=1))
    (frames,) = recorded_clips([spec], action_free.manifest, count=1, seed=0).frames
    with WorldModel.open(action_free, engine="onnxruntime:CPU") as model:
        latents = np.stack([model.encode(frame) for frame in frames])
        nothing = np.zeros((1, action_free.manifest.horizon, 2), np.float32)
        futures = model.predict(nothing, latents=latents[:2]).latents[0]
    errors = np.linalg.norm((futures - latents[2:]).reshape(len(futures), -1), axis=1)
    norms = np.linalg.norm(latents[2:].reshape(len(futures), -1), axis=1)
    accuracy = evaluation.variants[0].prediction_accuracy
    assert accuracy is not None and accuracy.drift == pytest.approx(errors / norms, rel=1e-4)
    assert not any("prediction accuracy" in note for note in evaluation.notes)


def test_images_may_differ_in_size(manifest: Manifest, tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((40 + index, 48, 3), np.uint8))
    assert len(recorded_clips([str(tmp_path)], manifest, count=9, seed=0)) == 3


class Camera(PassiveSource):
    """Yield endless frames at 30 Hz whose gray level counts them."""

    name, rate_hz, live = "/dev/video0", 30.0, True

    def frames(self) -> Iterator[Frame]:
        for index in count():
            yield Frame(np.full((48, 48, 3), index, np.uint8), 10**9 + index * 10**9 // 30, "camera", index)


def test_camera_is_read_only_as_long_as_clips_need(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "open_source", lambda *_, **__: Camera())
    clips = recorded_clips(["/dev/video0"], manifest, count=2, seed=0)
    # Two clips of at most six frames, six camera frames apart.
    grays = clips.frames.mean(axis=(2, 3, 4)).round().astype(int)
    assert grays.tolist() == [[0, 6], [65, 71]]
    assert clips.name == "/dev/video0" and not clips.executed


def test_training_data_is_excluded_and_not_even_read(manifest: Manifest, tmp_path: Path) -> None:
    spec = lerobot(tmp_path)
    learned = frozenset(marks(spec, tmp_path)[i] for i in (0, 1, 3))
    cache = tmp_path / "cache"
    clips = recorded_clips([spec], manifest, count=9, seed=0, trained_on=learned, cache=cache)
    assert set(episodes_of(clips)) == {2}
    assert clips.name == f"{spec} (1 of 4 recordings; the model was not trained on these)"
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


def test_only_training_data_is_used_with_a_warning(manifest: Manifest, tmp_path: Path) -> None:
    spec = lerobot(tmp_path)
    learned = frozenset(marks(spec, tmp_path))
    clips = recorded_clips([spec], manifest, count=9, seed=0, trained_on=learned)
    assert clips.name == f"{spec} (4 of 4 recordings; the model was trained on these)"


def test_only_needed_recordings_are_decoded_and_each_once(manifest: Manifest, tmp_path: Path) -> None:
    spec, cache = lerobot(tmp_path, episodes=5), tmp_path / "cache"
    first = recorded_clips([spec], manifest, count=3, seed=0, cache=cache)
    inodes = {entry.name: entry.stat().st_ino for entry in cache.iterdir()}
    again = recorded_clips([spec], manifest, count=3, seed=0, cache=cache)
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 3
    assert set(episodes_of(first)) == {0, 2, 4} and (first.frames == again.frames).all()
    assert {entry.name: entry.stat().st_ino for entry in cache.iterdir()} == inodes


def test_reading_of_a_long_recording_is_reported(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_data, "_READING_INTERVAL_S", 0.0)
    path = write_video(tmp_path / "a.mp4", range(20))
    messages: list[str] = []
    recorded_clips([str(path)], manifest, count=2, seed=0, reading=messages.append)
    assert messages[-1] == f"{path}: 19 frames read"


def test_unusable_recordings_are_skipped_on_request(manifest: Manifest, tmp_path: Path) -> None:
    write_video(tmp_path / "films/a.mp4", range(20))
    (tmp_path / "films/b.mp4").write_bytes(b"no film")
    folders = [str(tmp_path / "films")]
    with pytest.raises(JepaExportError, check=code("data.video_damaged")):
        recorded_clips(folders, manifest, count=2, seed=0)
    assert len(recorded_clips(folders, manifest, count=2, seed=0, skip_bad=True)) == 2


@pytest.mark.parametrize(
    ("report", "expected"), [({"trained_on": ["a", "b"]}, {"a", "b"}), ({"trained_on": 3}, None), ([], None)]
)
def test_report_states_the_training_data_or_nothing(
    report: Any, expected: set[str] | None, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "toy")
    assert trained_on(bundle) is None
    write_report(bundle.path, report)
    assert trained_on(seal(bundle.path, bundle.manifest)) == expected
