"""jepa-export build --teacher --time clip:N: the encoder reads the last N frames once per step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.bundling.motion_probe import DIRECTIONS, moving_window, probe_motion
from jepa_export.bundling.task_progress import ignore_progress
from jepa_export.bundling.teacher_bundle import bundle_cost
from jepa_export.cli import main
from jepa_export.evaluation.compute_cost import bundle_multiply_adds
from jepa_export.evaluation.evaluate import EvaluationPlan, evaluate
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2
from jepa_runtime import Bundle, FrameError, WorldModel
from jepa_runtime.bundle import parse_manifest
from jepa_runtime.cli import main as runtime
from jepa_runtime.profiling import read_profile
from tests.errors import code
from tests.export.bundling.built_teachers import build, small_family
from tests.export.data.recordings import write_video
from tests.export.teachers.tiny import PX

CLIP, TOKENS = 4, 9


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with small_family():
        yield


@pytest.fixture(scope="module", params=["vjepa2", pytest.param("vjepa2_1", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VJEPA2, Bundle]:
    """Return a teacher with official weights, and its bundle."""
    return build(request.param, tmp_path_factory.mktemp(request.param), f"clip:{CLIP}")


def images(count: int = CLIP) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, PX, PX, 3), np.uint8)


def official_latent(model: VJEPA2, clip: np.ndarray) -> np.ndarray:
    return model(normalize(torch.from_numpy(clip).float())[None])[0, -TOKENS:].numpy()


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_latent_is_the_last_tubelet_of_the_clip(built: tuple[VJEPA2, Bundle], engine: str) -> None:
    teacher, bundle = built
    clip = images()
    backwards = clip[::-1].copy()
    with WorldModel.open(bundle, engine=engine) as model:
        latents = model.encode(np.stack([clip, backwards]))
        again = model.encode_clip(list(clip))
        alone = model.encode(clip[-1])
    for latent, shown in zip(latents, (clip, backwards), strict=True):
        np.testing.assert_allclose(latent, official_latent(teacher, shown), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(again, latents[0])
    expected = official_latent(teacher, np.repeat(clip[-1:], CLIP, axis=0))
    np.testing.assert_allclose(alone, expected, atol=1e-5, rtol=0)


def test_reverse_that_ends_in_the_same_frame_has_another_latent(built: tuple[VJEPA2, Bundle]) -> None:
    shown = images(2 * CLIP - 1)
    with WorldModel.open(built[1]) as model:
        forward, reverse = model.encode(shown[:CLIP]), model.encode(shown[CLIP - 1 :][::-1].copy())
    assert np.abs(forward - reverse).max() > 1e-2


@pytest.mark.parametrize("count", [2, 3, 5])
def test_clip_of_another_length_is_rejected(built: tuple[VJEPA2, Bundle], count: int) -> None:
    with WorldModel.open(built[1]) as model, pytest.raises(FrameError, check=code("frame.wrong_clip")):
        model.encode(images(count))


def test_manifest_states_the_clip(built: tuple[VJEPA2, Bundle]) -> None:
    manifest = built[1].manifest
    assert manifest.io.clip is not None
    assert (manifest.io.clip.frames, manifest.io.clip.frames_per_step) == (CLIP, 2)
    assert (manifest.io.frame_interval_s, manifest.io.frame.rate_hz) == (0.25, 4)
    assert "clip" in manifest.interface() and "clips of 4 frames" in manifest.description
    written = json.dumps(manifest.to_json_dict()).encode()
    assert parse_manifest(written) == manifest
    assert built[1].golden().frames.shape == (3, CLIP, PX, PX, 3)


def test_report_compares_stills_and_clips(built: tuple[VJEPA2, Bundle]) -> None:
    report = built[1].report()
    assert report["motion_probe"]["still_accuracy"] == report["motion_probe"]["chance"] == 0.25
    assert report["motion_probe"]["clip_accuracy"] >= 0.25 and report["motion_probe"]["trained"]
    assert report["still_and_clip"]["frames"] == CLIP
    cost = bundle_cost(built[0].config, 2, 2, CLIP)
    assert cost.still is not None
    assert report["encoder_cost"]["clip"]["multiply_adds_per_s"] == 2 * cost.encoder.multiply_adds
    assert report["encoder_cost"]["still"]["multiply_adds_per_s"] == 30 * cost.still.multiply_adds
    assert cost.encoder.multiply_adds == bundle_multiply_adds(built[1])["encoder"]
    assert cost.encoder.multiply_adds > 2 * cost.still.multiply_adds


def test_runtime_commands_work_with_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    folder, summary, profile = str(built[1].path), tmp_path / "run.json", tmp_path / "profile.json"
    assert runtime(["verify", folder]) == 0
    source = ["--source", "two_rooms", "--rate", "30", "--duration", "4", "--deadline-ms", "1000"]
    assert runtime(["run", folder, *source, "--json", str(summary)]) == 0
    found = json.loads(summary.read_text())
    assert found["frames_processed"] == 7 and found["frames_skipped"] == found["frames_published"] - 7
    assert found["predict_ms"] and found["resets"]["gap"] == 0
    options = ["--duration", "2", "--skip", "sweep,cold,idle", "--json", str(profile)]
    assert runtime(["profile", folder, "--source", "two_rooms", *options]) == 0
    assert read_profile(profile).run.rate_hz == 2
    video = str(write_video(tmp_path / "drive.mp4", range(400)))
    learned = tmp_path / "learned"
    assert runtime(["calibrate", folder, "--source", video, "--output", str(learned)]) == 0
    assert Bundle.open(learned).manifest.io.clip == built[1].manifest.io.clip


def test_run_reports_why_there_is_no_latent(
    built: tuple[VJEPA2, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--source", "two_rooms", "--rate", "30", "--duration", "0.5"]
    assert runtime(["run", str(built[1].path), *source]) == 1
    assert "a clip of this model needs 4 images, 0.25 s apart" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_every_pass_of_a_profile_reads_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    assert runtime(["profile", str(built[1].path), "--duration", "2", "--json", str(out)]) == 0
    profile = read_profile(out)
    assert profile.closed_loop is not None and profile.sweep is not None
    assert profile.cold_starts and profile.idle_gaps and profile.layers
    assert not [note for note in profile.notes if "not measured" in note]


def test_predictions_are_evaluated_on_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "drive.mp4", range(90)))
    for data in ((video,), EvaluationPlan.data):
        evaluation = evaluate(built[1], EvaluationPlan(data=data, clips=2))
        for variant in evaluation.variants:
            assert variant.prediction_accuracy is not None and variant.prediction_accuracy.drift


def test_variants_are_added_to_a_bundle_with_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    out = tmp_path / "more"
    arguments = ["--target", "openvino", "--precision", "int8", "--calibration", "two_rooms"]
    assert main(["add-variant", str(built[1].path), *arguments, "--output", str(out)]) == 0
    precisions = {each.precision for each in Bundle.open(out).manifest.graphs.encoder}
    assert precisions == {"fp32", "int8"}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_windows_of_an_image_end_in_the_same_frame(direction: tuple[int, int]) -> None:
    image = torch.from_numpy(images(1)[0])
    clip, other = (moving_window(image, each, CLIP) for each in (direction, DIRECTIONS[0]))
    assert clip.shape == (CLIP, PX, PX, 3) and torch.equal(clip[-1], other[-1])
    assert not torch.equal(clip[0], clip[-1])


def test_probe_finds_a_direction_that_the_latent_states() -> None:
    """An encoder of clips that measures where the first frame moved, and of stills that cannot."""

    class Means(torch.nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return (frames[0].float() - frames[-1].float()).mean(dim=(0, 1))[None, None]

    rows, columns = torch.meshgrid(torch.linspace(0, 200, PX), torch.linspace(0, 200, PX), indexing="ij")
    shown = torch.stack([torch.stack([rows, columns, rows], dim=-1) + shade for shade in range(16)])
    probe = probe_motion(Means(), Means(), shown.to(torch.uint8), CLIP, trained=True, begin=ignore_progress)
    assert (probe.clip_accuracy, probe.still_accuracy) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("teacher", "time", "reason"),
    [
        ("vjepa2", "clip:3", "export.invalid_clip_length"),
        ("vjepa2", "clip:64", "export.invalid_clip_length"),
        ("vjepa2_ac", "clip:2", "export.option_not_applicable"),
        ("lewm", "clip:2", "export.option_not_applicable"),
    ],
)
def test_impossible_clips_are_rejected(
    teacher: str, time: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", teacher, "--untrained", "--time", time, "--output", str(tmp_path / "bundle")]
    assert main(["build", *arguments]) == 1
    assert f"[{reason}]" in capsys.readouterr().err
