"""jepa-export distill and train-predictor, from recordings to a bundle that the runtime runs."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export.bundling.teacher_retention import read_teacher_retention
from jepa_export.cli import main
from jepa_export.data import open_data as open_module
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.provenance_marks import mark
from jepa_export.distillation import distill as run
from jepa_export.distillation import teacher_targets as teacher
from jepa_export.distillation.clip_metrics import ClipMetrics
from jepa_export.distillation.frozen_encoders import from_distillation, from_teacher
from jepa_export.distillation.teacher_targets import open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints.read import Teacher
from jepa_export.teachers.family import find_teacher
from jepa_export.training.checkpoint import load, save
from jepa_export.training.stage import TrainingStage
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from tests.errors import code
from tests.export.data.conftest import bikes, carphone  # noqa: F401
from tests.export.data.recordings import write_video
from tests.export.distillation.tiny import DATA, DISTILL, PACE, SHAPE, TEACHER, families

TRAIN = ["train-predictor", "--student", "tiny", *SHAPE, *PACE[2:], "--allow-collapse"]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with families():
        yield


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run on Two Rooms."""
    out = tmp_path_factory.mktemp("distilled") / "run"
    assert main([*DISTILL, "--output", str(out)]) == 0
    return out


def refused(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([*arguments, "--output", str(out)]) == 1
    assert not (out / "bundle").exists()
    return " ".join(capsys.readouterr().err.split())


def test_settings_that_allow_no_bundle_are_rejected_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stderr = refused([*DISTILL, "--num-samples", "70000"], tmp_path / "run", capsys)
    assert "no valid bundle can be built from these settings: num_samples: " in stderr
    assert not (tmp_path / "run/encoder.pt").exists()


def test_too_few_clips_for_the_second_stage_are_reported_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stderr = refused([*DISTILL, "--batch", "90"], tmp_path / "run", capsys)
    assert "a batch of 90 clips cannot be drawn from 70" in stderr
    assert not (tmp_path / "run/encoder.pt").exists()


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ("{film}", "film.mp4: actions are none, those of two_rooms"),
        ("two_rooms?trajectories=1&frames=3", "held-out recordings (--held-out 0.1): no clip of 4 frames"),
    ],
)
def test_unsuitable_held_out_data_is_reported_before_training(
    others: str,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = write_video(tmp_path / "film.mp4", range(20))
    monkeypatch.setattr(open_module, "split", lambda recordings, held_out: (recordings[:-1], recordings[-1:]))
    arguments = [*DISTILL, "--data", others.format(film=video)]
    assert complaint in refused(arguments, tmp_path / "run", capsys)
    assert not (tmp_path / "run/encoder.pt").exists()


def test_training_data_and_recordings_without_clips_are_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, length in {"a": 20, "b": 3, "c": 30}.items():
        write_video(tmp_path / f"films/{name}.mp4", range(length))
    monkeypatch.setattr(open_module, "split", lambda recordings, held_out: (recordings[:-1], recordings[-1:]))
    options = ["--data", str(tmp_path / "films"), "--rate", "10"]
    # Rejected after the data was read.
    arguments = ["distill", *TEACHER, "--student", "tiny", *options, *SHAPE, *PACE, "--num-samples", "70000"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "to train on: 17 clips of 4 frames at 10 Hz in 1 of 2 recordings; " in output
    assert "held out: 27 clips of 4 frames at 10 Hz in 1 of 1 recordings" in output
    assert f"held out: {tmp_path}/films/c.mp4" in output
    assert f"are not known for that long: {tmp_path}/films/b.mp4" in caplog.text


def test_predictor_no_better_than_standing_still_is_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = {"rmse": [0.3, 0.2], "copy_last_rmse": [0.2, 0.4], "error_bounds": [1.0, 1.0]}
    metrics = ClipMetrics(clips=9, **errors, surprise_threshold=1.0, goal_threshold=1.0)
    monkeypatch.setattr(run.clip_metrics, "measure", lambda *_: metrics)
    monkeypatch.setattr(run, "write_student_bundle", lambda *_, **__: None)
    assert main([*DISTILL, "--output", str(tmp_path / "run")]) == 0
    assert "relative to predicting no change: 1.50 at step 1, 0.50 at step 2" in capsys.readouterr().out
    assert "no better than predicting no change at 1 of 2 steps" in caplog.text


@pytest.mark.slow
def test_bundle_records_its_training_data(distilled: Path) -> None:
    bundle = Bundle.open(distilled / "bundle")
    manifest = bundle.manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("tiny", "1.0.0", False)
    assert "tiny_vjepa2" in manifest.provenance.teacher and "random weights" in manifest.provenance.teacher
    assert "two_rooms" in manifest.provenance.data and "held out" in manifest.provenance.data
    assert manifest.io.step_s == pytest.approx(0.2)
    assert list(manifest.io.action.names) == ["linear.x", "linear.y"]
    limits = zip(manifest.io.action.low, manifest.io.action.high, strict=True)
    assert all(-1.6 < low < 0 < high < 1.6 for low, high in limits)
    assert min(manifest.error_bounds) > 0 and manifest.surprise_threshold > 0
    assert bundle.report()["open_loop"]["held_out"] is True
    retention = read_teacher_retention(bundle)
    assert retention is not None and (retention.teacher, retention.held_out) == ("tiny_vjepa2", True)
    assert retention.variance is not None and retention.variance < 1 and -1 < retention.cosine < 1
    measured_on = bundle.report()["open_loop"]["recordings"]
    assert f"held out: {7 * len(measured_on)} clips of 4 frames at 5 Hz" in manifest.provenance.data
    assert [each["graph"] for each in bundle.report()["int8"]][:2] == ["encoder", "step"]
    assert runtime(["verify", str(bundle.path)]) == 0


@pytest.mark.slow
def test_bundle_contains_the_trained_weights(distilled: Path) -> None:
    given = from_distillation(distilled)
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.no_grad():
        expected = given.encoder(torch.from_numpy(frames)).numpy()
    with WorldModel.open(distilled / "bundle", precision="fp32", allow_untrained=True) as model:
        actual = np.stack([model.encode(frame) for frame in frames])
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.slow
def test_quantization_aware_encoder_is_in_the_bundle_and_used_by_later_predictors(
    distilled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main([*DISTILL, "--quantization-aware", "3", "--output", str(out)]) == 0
    assert (out / "encoder.csv").read_text() == (distilled / "encoder.csv").read_text()
    assert len((out / "encoder_int8.csv").read_text().splitlines()) == 1 + 3
    before, after = (from_distillation(run).encoder.state_dict() for run in (distilled, out))
    assert not torch.equal(before["out.1.weight"], after["out.1.weight"])
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.no_grad():
        expected = from_distillation(out).encoder(torch.from_numpy(frames)).numpy()
    with WorldModel.open(out / "bundle", precision="fp32", allow_untrained=True) as model:
        actual = np.stack([model.encode(frame) for frame in frames])
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    command = Bundle.open(out / "bundle").manifest.provenance.command
    assert "--quantization-aware 3" in command
    assert main([*shlex.split(command)[1:], "--output", str(out)]) == 0, "the command can be repeated"


@pytest.mark.slow
def test_predictor_is_trained_on_the_encoder_of_a_run(distilled: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    assert main([*TRAIN, "--encoder", str(distilled), *DATA, "--seed", "1", "--output", str(out)]) == 0
    ours, theirs = (Bundle.open(run / "bundle") for run in (out, distilled))
    assert ours.manifest.provenance.teacher == theirs.manifest.provenance.teacher
    assert not ours.manifest.trained, "its encoder learned random weights"
    assert ours.report()["trained_on"] == theirs.report()["trained_on"]
    assert read_teacher_retention(ours) == read_teacher_retention(theirs) is not None
    file = "encoder/onnx/model_fp32.onnx"
    assert (ours.path / file).read_bytes() == (theirs.path / file).read_bytes()
    file = "predictor/onnx/model_fp32.onnx"
    assert (ours.path / file).read_bytes() != (theirs.path / file).read_bytes()


@pytest.mark.slow
def test_completed_run_becomes_a_bundle_with_other_variants(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(distilled, tmp_path / "run")
    forms = ["--target", "tensorrt", "--target", "npu"]
    assert main([*DISTILL, *forms, "--output", str(out)]) == 0
    manifest = Bundle.open(out / "bundle").manifest
    for graphs in (manifest.graphs.encoder, manifest.graphs.predictor, manifest.graphs.step):
        variants = {f"{each.target}/{each.precision}" for each in graphs}
        assert variants == {"tensorrt/int8", "tensorrt/fp16", "npu/int8", "npu/fp16"}
    assert "--target tensorrt --target npu" in manifest.provenance.command
    given = [*TRAIN, "--encoder", str(distilled / "bundle"), "--untrained-teacher", *DATA, *forms]
    stderr = refused(given, tmp_path / "more", capsys)
    assert "omit --target and --only" in stderr


@pytest.mark.slow
def test_predictor_is_trained_on_an_unchanged_teacher(tmp_path: Path) -> None:
    arguments = [
        *TRAIN,
        "--encoder",
        TEACHER[1],
        "--untrained-teacher",
        *DATA,
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 0
    manifest = Bundle.open(tmp_path / "run" / "bundle").manifest
    assert manifest.model_id == "tiny_vjepa2" and manifest.io.latent.tokens == 9
    assert not manifest.trained, "its encoder has random weights"
    assert runtime(["verify", str(tmp_path / "run" / "bundle")]) == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_videos_and_a_vjepa2_become_a_bundle_that_the_runtime_runs(
    bikes: Path,  # noqa: F811
    carphone: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    named = ["--teacher", "vjepa2_vitl_256", "--untrained-teacher", "--depth", "1", "--size", "64"]
    data = ["--data", str(bikes), "--data", str(carphone)]
    pace = ["--steps", "12", "--predictor-steps", "12", "--watch-every", "6"]
    out = tmp_path / "run"
    assert main(["distill", *named, "--student", "tiny", *data, *SHAPE, *pace, "--output", str(out)]) == 0
    manifest = Bundle.open(out / "bundle").manifest
    assert not manifest.trained and "1 of 24 blocks: not the published model" in manifest.provenance.teacher
    played = tmp_path / "played.json"
    bundle = [str(out / "bundle"), "--allow-untrained"]
    assert runtime(["run", *bundle, "--source", str(bikes), "--duration", "3", "--json", str(played)]) == 0
    assert json.loads(played.read_text())["frames_processed"] > 30
    report = json.loads(played.read_text())
    assert report["predict_ms"]["n"] > 0, "without executed actions"
    repeated = tmp_path / "again"
    arguments = [*TRAIN, "--encoder", str(out / "bundle"), *data, "--action-free", "--output", str(repeated)]
    assert main([*arguments, "--untrained-teacher"]) == 0
    for folder in (out / "bundle", repeated / "bundle"):
        with WorldModel.open(folder, allow_untrained=True) as model:
            latents = np.stack([model.encode(np.full((64, 64, 3), gray, np.uint8)) for gray in (0, 200)])
            actions = np.zeros((2, 2, 1), np.float32)
            actions[1] = 1
            futures = model.predict(
                actions, latents=latents, history_actions=np.zeros((1, 1), np.float32)
            ).latents
            # Videos have no actions, so actions have no effect.
            np.testing.assert_array_equal(futures[0], futures[1])


def test_impossible_settings_are_reported_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bikes: Path,  # noqa: F811
) -> None:
    def stderr_of(*arguments: str) -> str:
        return refused(list(arguments), tmp_path / "run", capsys)

    options = ["--data", str(bikes), "--held-out", "0"]
    assert "student 'missing': unknown" in stderr_of(*DISTILL, "--student", "missing")
    assert "--steps: must be at least 1, got 0" in stderr_of(*DISTILL, "--steps", "0")
    assert "--size: must be between 16 and 4096, got 0" in stderr_of(*DISTILL, "--size", "0")
    assert "--size: must be between 16 and 4096, got 100000" in stderr_of(*DISTILL, "--size", "100000")
    for rate in ("0", "-1", "nan", "inf"):
        assert f"must be a positive number, got {rate}" in stderr_of(*DISTILL, "--learning-rate", rate)
    assert "--batch: must be at least 1, got 0" in stderr_of(*DISTILL, "--batch", "0")
    assert "--alarms: must be at least 1, got 0" in stderr_of(*DISTILL[:-1], "--alarms", "0")
    for length in ("1025", str(2**63), str(10**20)):
        assert "must be at most 1024, got 2 and" in stderr_of(*DISTILL, "--horizon", length)
    for rate in ("0", "-1", "nan", "inf", "1e-300"):
        assert f"--rate: must be between 0.00028 and 1e+06, got {rate}" in stderr_of(*DISTILL, "--rate", rate)
    assert "--data: empty" in stderr_of(*DISTILL, "--data", "")
    assert "--quantization-aware: must be at least 0" in stderr_of(*DISTILL, "--quantization-aware", "-1")
    assert "--int8-cosine must be above 0 and below 1" in stderr_of(*DISTILL, "--int8-cosine", "1")
    assert "nowhere.mp4: no such file" in stderr_of(*DISTILL, "--data", "nowhere.mp4")
    assert "no clip of 42 frames" in stderr_of(*DISTILL, "--horizon", "40")
    assert "a batch of 400 clips cannot be drawn" in stderr_of(*DISTILL, "--batch", "400")
    assert "the data has no actions" in stderr_of(*TRAIN, "--encoder", *TEACHER[1:], *options)
    assert "not the folder of a distillation" in stderr_of(*TRAIN, "--encoder", str(tmp_path), *DATA)


@pytest.mark.parametrize("untrained", [True, False])
def test_student_counts_as_trained_if_its_teacher_is(
    untrained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    random = open_teacher(TEACHER[1], untrained=True, depth=None, seed=0, accept_non_commercial=False)
    monkeypatch.setattr(run, "open_teacher", lambda *_, **__: random)
    monkeypatch.setattr(run._Run, "finish", lambda _, source, *__: trained.append(source.trained))
    arguments = [word for word in DISTILL if untrained or word != "--untrained-teacher"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    trained.append(from_distillation(tmp_path).trained)
    assert trained == [not untrained] * 2


def test_later_predictors_use_the_weights_with_the_best_held_out_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run._Run, "finish", lambda *_: None)
    assert main([*DISTILL, "--output", str(tmp_path)]) == 0
    state = load(tmp_path / "encoder.pt")
    for name, weights in state["best"]["network"].items():
        state["best"]["network"][name] = torch.full_like(weights, 0.5)
    save(state, tmp_path / "encoder.pt")
    assert all(
        (weights == 0.5).all() for weights in from_distillation(tmp_path).encoder.state_dict().values()
    )


@pytest.mark.parametrize("is_video", [True, False])
def test_data_without_actions_is_reported_before_training(
    is_video: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run._Run, "train", lambda *_, **__: None)
    monkeypatch.setattr(run._Run, "finish", lambda *_: None)
    video = write_video(tmp_path / "film.mp4", range(40))
    arguments = [str(video) if is_video and word == DATA[1] else word for word in DISTILL]
    assert main([*arguments, "--held-out", "0", "--output", str(tmp_path / "run")]) == 0
    assert ("the data has no actions" in caplog.text) == is_video


@pytest.fixture(params=["0", "0.2"])
def held_out(request: pytest.FixtureRequest) -> str:
    """Return the proportion of held-out recordings."""
    return str(request.param)


@pytest.fixture
def outcome(held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the fields of the bundle, from a run without training."""
    named: dict[str, Any] = {}
    monkeypatch.setattr(run._Run, "train", lambda *_: None)
    monkeypatch.setattr(run, "write_student_bundle", lambda *_, **given: named.update(given))
    assert main([*DISTILL, "--held-out", held_out, "--output", str(tmp_path)]) == 0
    return named


def test_report_states_whether_data_was_held_out(held_out: str, outcome: dict[str, Any]) -> None:
    assert outcome["seen"] == (held_out == "0")
    assert outcome["report"]["open_loop"]["held_out"] == (held_out != "0")


def test_report_marks_only_the_training_data(held_out: str, outcome: dict[str, Any], tmp_path: Path) -> None:
    data = open_module.open_data(
        [DATA[1]], FrameStore(tmp_path, height=48, width=48), held_out=float(held_out)
    )
    assert outcome["report"]["trained_on"] == sorted(map(mark, data.train))
    assert (len(data.train) < 12) == (held_out != "0")


def test_teacher_that_no_bundle_can_hold_is_rejected_before_training() -> None:
    member = find_teacher("vjepa2_vitg_256")
    with torch.device("meta"):
        teacher = Teacher(
            name="vjepa2_vitg_256", member=member, model=member.config.build(), weights="", source=""
        )
    with pytest.raises(JepaExportError, check=code("target.model_too_large")):
        from_teacher(teacher, clip=2, student="tiny", trained=True)


def test_folder_of_other_settings_or_data_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run._Run, "train", lambda *_: None)
    monkeypatch.setattr(run._Run, "finish", lambda *_: None)
    out = tmp_path / "run"
    assert main([*DISTILL, "--output", str(out)]) == 0
    assert main([*DISTILL, "--checkpoint-every", "3", "--output", str(out)]) == 0
    assert "learning_rate 0.0005 (now 0.1)" in refused([*DISTILL, "--learning-rate", "0.1"], out, capsys)
    assert "watch_every 2 (now 3)" in refused([*DISTILL, "--watch-every", "3"], out, capsys)
    other = [*DISTILL[:6], "--data", "two_rooms?trajectories=13&frames=10", *DISTILL[8:]]
    stderr = refused(other, out, capsys)
    assert "other settings: data" in stderr
    assert (
        "70 clips of 4 frames at 5 Hz in 10 of 10" in stderr
        and "77 clips of 4 frames at 5 Hz in 11" in stderr
    )
    assert "other settings: data" in refused([*DISTILL, "--held-out", "0.3"], out, capsys)
    (out / "settings.json").write_text("[1]")
    assert "settings.json: cannot be read or written" in refused(DISTILL, out, capsys)


@pytest.mark.parametrize("changed", ["unit_scale", "normalize"])
def test_partly_trained_student_does_not_resume_with_other_targets(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update of jepa-edge the user's settings are the same."""

    train_step = TrainingStage.train_step

    def fail_at_step_3(self: TrainingStage, step: int) -> dict[str, float]:
        if step == 3:
            raise JepaExportError("the disk is full")
        return train_step(self, step)

    monkeypatch.setattr(run._Run, "finish", lambda *_: None)
    with monkeypatch.context() as ended:
        ended.setattr(TrainingStage, "train_step", fail_at_step_3)
        refused(DISTILL, tmp_path, capsys)
    before = getattr(teacher, changed)
    with monkeypatch.context() as updated:
        updated.setattr(teacher, changed, lambda values: before(values) ** 3)
        stderr = refused(DISTILL, tmp_path, capsys)
    assert "encoder.pt: the targets of this stage differ from those that the run began with" in stderr
    assert main([*DISTILL, "--output", str(tmp_path)]) == 0
