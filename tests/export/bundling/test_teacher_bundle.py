"""jepa-export build --teacher: a published model unchanged, in a bundle that the runtime runs."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.bundling import builder, teacher_bundle
from jepa_export.bundling.still_and_clip import compare_still_and_clip
from jepa_export.bundling.teacher_bundle import bundle_cost, check_teacher
from jepa_export.cli import main
from jepa_export.commands import build_teacher as command
from jepa_export.commands.teacher_request import TeacherRequest
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import bundle_multiply_adds
from jepa_export.evaluation.evaluate import EvaluationPlan, evaluate
from jepa_export.teachers.checkpoints import read
from jepa_export.teachers.family import FAMILY, find_teacher
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2
from jepa_runtime import Bundle, BundleError, WorldModel
from jepa_runtime.cli import main as runtime
from tests.errors import code
from tests.export.data.recordings import write_video
from tests.export.teachers.tiny import TINY, official

PX, SIZE, HORIZON = 48, 2, 2
CLIP = ["--frames", "4", "--horizon", "2"]
CASES = ("vjepa2", "vjepa2_1")


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Register the small teachers by name; one has a non-commercial license."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        for name, member in TINY.items():
            patch.setitem(FAMILY, name, member)
        patch.setitem(FAMILY, "gift", replace(TINY["vjepa2"], license="CC-BY-NC-4.0"))
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return checkpoints in the official formats."""
    folder = tmp_path_factory.mktemp("official")
    for case in CASES:
        torch.save(official(case), folder / f"{case}.pt")
    return {case: folder / f"{case}.pt" for case in CASES}


class Built:
    """Contain a bundle of the teacher ``case`` and the output of its build."""

    def __init__(self, case: str, checkpoint: Path, folder: Path) -> None:
        self.case, self.folder = case, folder
        model = read(case, checkpoint).model
        assert isinstance(model, VJEPA2)
        self.model = model
        printed, self.parts = io.StringIO(), {}
        with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "show_on", lambda _: self._begin)
            arguments = ["--teacher", case, "--checkpoint", str(checkpoint), *CLIP, "--output", str(folder)]
            assert main(["build", *arguments]) == 0
        self.said = " ".join(printed.getvalue().split())

    def _begin(self, what: str, total: int) -> Callable[[], None]:
        """Count the parts of a task that are done."""
        done = self.parts[what] = [total, 0]
        return lambda: done.__setitem__(1, done[1] + 1)


@pytest.fixture(scope="module", params=CASES)
def built(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Built:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    return Built(request.param, checkpoints[request.param], folder)


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, PX, PX, 3), np.uint8)


def test_cost_is_reported_before_the_build(built: Built) -> None:
    places = [
        built.said.index(part)
        for part in (
            "multiply-adds", "estimated memory:", "GB on the robot", "estimated time:", "[1]", "bundle:",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    count = sum(parameter.numel() for parameter in built.model.encoder.parameters())
    assert f"{count / 1e6:.2f} M" in built.said


def test_manifest_describes_the_teacher(built: Built) -> None:
    manifest = Bundle.open(built.folder).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == (built.case, "1.0.0", True)
    assert (manifest.history_size, manifest.horizon, manifest.num_samples) == (SIZE, HORIZON, 1)
    assert (manifest.io.latent.tokens, manifest.io.latent.dim) == (9, 40)
    assert manifest.licence == "MIT"
    teacher = manifest.provenance.teacher
    assert teacher is not None and f"{built.case}.pt" in teacher and TINY[built.case].weights in teacher
    assert all(bound > 0 for bound in manifest.error_bounds)
    assert manifest.surprise_threshold > 0 and manifest.goal_threshold > 0
    forms = [("openvino", "fp32"), ("onnx", "fp32")]
    assert [(each.target, each.precision) for each in manifest.graphs.predictor] == forms


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_runtime_computes_what_the_teacher_computes(built: Built, engine: str) -> None:
    shown = frames(SIZE)
    clips = normalize(torch.from_numpy(shown).float())[:, None].expand(-1, 2, -1, -1, -1)
    latents = built.model(clips)
    with WorldModel.open(built.folder, engine=engine) as model:
        encoded = np.stack([model.encode(frame) for frame in shown])
        np.testing.assert_allclose(encoded, latents, atol=1e-4, rtol=0)
        futures = model.predict(np.zeros((1, HORIZON, 1), np.float32), latents=latents.numpy())
    if built.model.config.output_space == "encoder":
        expected = built.model.anticipate(latents.flatten(0, 1)[None], steps=HORIZON)
        np.testing.assert_allclose(futures.latents.reshape(1, -1, 40), expected, atol=1e-4, rtol=0)


def test_report_compares_every_variant_with_torch(built: Built) -> None:
    rows = Bundle.open(built.folder).report()["parity"]
    assert [(row["graph"], row["target"]) for row in rows] == [
        (role, target) for target in ("openvino", "onnx") for role in ("encoder", "predictor")
    ]
    assert all(row["max_abs"] <= 1e-4 for row in rows)


def test_report_of_a_distilled_teacher_has_the_readout_quality(built: Built) -> None:
    report = Bundle.open(built.folder).report()
    if built.model.config.output_space == "encoder":
        assert "read_back" not in report
    else:
        assert report["read_back"]["explained"] <= 1 and "variance" in report["read_back"]["about"]
        assert "projected by a linear map" in Bundle.open(built.folder).manifest.description


def test_each_encoded_frame_clip_and_window_counts_as_progress(built: Built) -> None:
    steps = teacher_bundle.steps_read(built.model.config, SIZE, HORIZON)
    assert built.parts == {"encoding frames": [steps] * 2, "encoding clips": [4] * 2, "predicting": [8] * 2}


def test_report_compares_still_frames_with_clips(built: Built) -> None:
    found = Bundle.open(built.folder).report()["still_and_clip"]
    assert (found["clips"], found["frames"], found["trained"]) == (4, 4, True)
    names = ("still_and_clip", "clip_and_reverse", "consecutive_stills")
    assert all(0 < found[name] < 1 for name in names)
    assert f"mean cosine of still frames and clips of 4 frames: {found['still_and_clip']:.3f}" in built.said


def test_clip_is_compared_with_its_still_and_with_its_reverse(built: Built) -> None:
    shown = torch.from_numpy(frames(2 * SIZE * 2))
    pixels = normalize(shown.float())
    stills = built.model(pixels[1::2, None].expand(-1, 2, -1, -1, -1))
    found = compare_still_and_clip(
        built.model, shown, stills, SIZE, trained=False, begin=lambda *_: lambda: None
    )
    forward, reverse = (built.model(pixels[rows][None])[0, -9:] for rows in ([0, 1, 2, 3], [6, 5, 4, 3]))
    pairs = (stills[1], forward), (forward, reverse), (stills[1], stills[2])
    expected = [float(torch.cosine_similarity(*pair, dim=-1).mean()) for pair in pairs]
    measured = found.still_and_clip, found.clip_and_reverse, found.consecutive_stills
    assert measured == pytest.approx(expected, abs=1e-5) and found.clips == 1
    lines: list[str] = []
    found.report(lines.append)
    assert "random weights" in lines[0]


def test_time_estimate_covers_frames_clips_and_predictions(built: Built) -> None:
    cost = bundle_cost(built.model.config, SIZE, HORIZON)
    assert cost.clip.multiply_adds > SIZE * cost.encoder.multiply_adds
    per_variant = cost.building_multiply_adds(2) - cost.building_multiply_adds(1)
    assert per_variant == 3 * (cost.encoder.multiply_adds + cost.predictor.multiply_adds)
    measured = cost.frames * cost.encoder.multiply_adds + 8 * (
        cost.predictor.multiply_adds + cost.clip.multiply_adds
    )
    assert cost.building_multiply_adds(0) == measured + 3 * cost.predictor.multiply_adds
    assert 0 < command.building_seconds(built.model.config, cost, 2) < 60


def test_teacher_bundle_verifies_and_runs_on_a_source(built: Built, tmp_path: Path) -> None:
    assert runtime(["verify", str(built.folder)]) == 0
    summary = tmp_path / "summary.json"
    arguments = [str(built.folder), "--source", "two_rooms", "--duration", "2"]
    assert runtime(["run", *arguments, "--json", str(summary)]) == 0
    assert json.loads(summary.read_text())


def test_predictions_of_a_teacher_bundle_are_evaluated(built: Built, tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "drive.mp4", range(60)))
    evaluation = evaluate(Bundle.open(built.folder), EvaluationPlan(data=(video,), clips=2))
    for variant in evaluation.variants:
        assert variant.prediction_accuracy is not None and len(variant.prediction_accuracy.drift) == HORIZON


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_readout_is_scored_on_frames_it_was_not_fitted_on(horizon: int) -> None:
    starts = teacher_bundle.windows(TINY["vjepa2_1"].config, horizon)
    predicted = [set(range(start + SIZE, start + SIZE + horizon)) for start in starts]
    fitted, scored = set().union(*predicted[:4]), set().union(*predicted[4:])
    assert len(starts) == 8 and not fitted & scored
    needed = teacher_bundle.steps_read(TINY["vjepa2_1"].config, SIZE, horizon)
    assert needed == max(fitted | scored) + 1
    assert teacher_bundle.windows(TINY["vjepa2"].config, horizon) == list(range(8)), "nothing is fitted"


def test_readout_recovers_an_exact_linear_map() -> None:
    config = TINY["vjepa2_1"].config
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(8, 2, 9, 36, generator=generator)
    arrived = predicted @ torch.randn(36, 40, generator=generator) + 3
    linear, report = teacher_bundle._fit_read_back(config, predicted, arrived)
    assert report["read_back"]["explained"] > 0.999
    torch.testing.assert_close(linear(predicted), arrived, atol=0.05, rtol=0)


def test_error_bounds_are_those_of_the_predictions() -> None:
    latents = torch.arange(4.0)[:, None, None].expand(-1, 1, 4)
    predicted = torch.zeros(2, 2, 1, 4)
    arrived = torch.tensor([[1.0, 2.0], [1.0, 2.0]])[:, :, None, None].expand(-1, -1, 1, 4)
    measured = teacher_bundle.measure_errors(predicted, arrived, latents[1:] - latents[:-1])
    assert measured.error_bounds == pytest.approx((2, 4))
    assert (measured.surprise_threshold, measured.goal_threshold) == (1, 1)


def test_reported_cost_matches_the_built_graphs(built: Built) -> None:
    model = built.model
    cost, counted = bundle_cost(model.config, SIZE, HORIZON), bundle_multiply_adds(Bundle.open(built.folder))
    assert cost.encoder.weights == sum(each.numel() for each in model.encoder.parameters())
    assert cost.encoder.multiply_adds == counted["encoder"]
    assert cost.predictor.multiply_adds == counted["predictor"]


def test_cost_of_real_teachers_is_known_before_reading_weights() -> None:
    cost = bundle_cost(find_teacher("vjepa2_vitl_256").config, 4, 4)
    assert 300e6 < cost.encoder.weights < 306e6 and 20e6 < cost.predictor.weights < 25e6
    assert 1.3e9 < cost.robot_bytes < cost.building_bytes < 10e9


def test_untrained_teacher_with_fewer_blocks_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    arguments = ["--untrained", "--depth", "1", *CLIP, "--only", "onnx/fp32", "--output", str(folder)]
    assert main(["build", "--teacher", "vjepa2_1", *arguments]) == 0
    manifest = Bundle.open(folder).manifest
    assert (manifest.trained, manifest.version) == (False, "0.0.0-untrained")
    assert "1 of its 12 blocks; random weights: its outputs mean nothing" in manifest.description
    assert manifest.provenance.teacher == "vjepa2_1 (V-JEPA 2.1), random weights, 1 of its 12 blocks"
    assert request_of(manifest.provenance.command).depth == 1
    with pytest.raises(BundleError, check=code("bundle.untrained")):
        WorldModel.open(folder)
    assert runtime(["verify", str(folder), "--engine", "onnxruntime:CPU"]) == 0, capsys.readouterr().err


def test_accelerators_get_the_teacher_in_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "run_vendor_compilers", lambda *_, **__: {})
    folder = tmp_path / "bundle"
    arguments = ["--untrained", *CLIP, "--target", "npu", "--target", "tensorrt", "--output", str(folder)]
    assert main(["build", "--teacher", "vjepa2_1", *arguments]) == 0
    rows = Bundle.open(folder).report()["parity"]
    assert {(row["target"], row["precision"]) for row in rows} == {("npu", "fp16"), ("tensorrt", "fp16")}
    assert all(row["min_cosine"] > 0.999 for row in rows)


def request_of(command_line: str) -> TeacherRequest:
    """Return the request that ``command_line`` passes to the builder."""
    taken: list[TeacherRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "build_teacher", lambda request: taken.append(request) or 0)
        assert main([*shlex.split(command_line)[1:], "--output", "x"]) == 0
    return taken[0]


@pytest.mark.parametrize(
    "further",
    [
        ["--checkpoint", "facebook/vjepa2-vitl-fpc64-256", "--frames", "16", "--target", "npu"],
        ["--untrained", "--depth", "3", "--seed", "4", "--horizon", "2", "--only", "tensorrt/fp16"],
        ["--untrained", "--accept-non-commercial", "--calibration", "my clip.mp4"],
    ],
)
def test_recorded_command_contains_every_option(further: list[str]) -> None:
    request = request_of(shlex.join(["jepa-export", "build", "--teacher", "vjepa2", *further]))
    assert request_of(request.command) == request


def test_recorded_command_omits_the_local_checkpoint_path(checkpoints: dict[str, Path]) -> None:
    line = ["jepa-export", "build", "--teacher", "vjepa2", "--checkpoint", str(checkpoints["vjepa2"])]
    assert "--checkpoint vjepa2.pt " in request_of(shlex.join(line)).command


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--teacher", "vjepa3", "--untrained"], "teacher.unknown"),
        (["--teacher", "ijepa", "--untrained"], "export.non_commercial"),
        (["--teacher", "ijepa", "--untrained", "--accept-non-commercial"], "export.teacher_unsupported"),
        (["--teacher", "vjepa2_ac", "--untrained", "--frames", "4"], "export.option_not_applicable"),
        (["--teacher", "lewm", "--untrained", "--frames", "4"], "export.option_not_applicable"),
        (["--teacher", "lewm", "--untrained", "--horizon", "0"], "export.invalid_option"),
        (["--teacher", "gift", "--untrained"], "export.non_commercial"),
        (["--teacher", "vjepa2", "--untrained", "--frames", "3"], "export.invalid_clip_length"),
        (["--teacher", "vjepa2", "--untrained", "--frames", "0"], "export.invalid_clip_length"),
        (["--teacher", "vjepa2", "--untrained", "--frames", "8"], "export.invalid_clip_length"),
        (["--teacher", "vjepa2", "--untrained", *CLIP, "--horizon", "0"], "export.invalid_clip_length"),
        (["--teacher", "vjepa2", "--untrained", *CLIP, "--depth", "3"], "export.invalid_option"),
        (["--teacher", "vjepa2", "--untrained", *CLIP, "--depth", "0"], "export.invalid_option"),
        (["--teacher", "vjepa2", "--checkpoint", "x.pt", "--depth", "1"], "export.option_not_applicable"),
        (["--teacher", "vjepa2", "--checkpoint", "none.pt", *CLIP], "teacher.checkpoint_not_found"),
        (["--teacher", "vjepa2_vitg_256", "--untrained"], "target.model_too_large"),
        (["--teacher", "vjepa2", "--untrained", "--only", "npu/int8"], "export.unknown_variant"),
    ],
)
def test_impossible_build_is_reported_in_one_line_and_leaves_nothing(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *arguments, "--output", str(tmp_path / "models" / "teacher")]) == 1
    stderr = capsys.readouterr().err
    assert (
        stderr.endswith(f"[{reason}]\n")
        and stderr.startswith("jepa-export: error: ")
        and stderr.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--teacher", "vjepa2", "--untrained", "--size", "64"], "--size applies to a student only"),
        (["--student", "vit_ti", "--untrained", "--frames", "4"], "--frames applies to a teacher only"),
        (["--student", "vit_ti", "--checkpoint", "x.pt"], "--checkpoint applies to a teacher only"),
    ],
)
def test_build_with_an_option_for_the_other_model_is_a_usage_error(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", *arguments, "--output", str(tmp_path / "x")])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_checkpoint_of_another_teacher_is_rejected_by_its_keys(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", "vjepa2", "--checkpoint", str(checkpoints["vjepa2_1"]), *CLIP]
    assert main(["build", *arguments, "--output", str(tmp_path / "teacher")]) == 1
    assert "[teacher.wrong_family]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_accepted_non_commercial_license_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    arguments = ["--untrained", "--accept-non-commercial", *CLIP, "--only", "onnx/fp32"]
    assert main(["build", "--teacher", "gift", *arguments, "--output", str(folder)]) == 0
    assert Bundle.open(folder).manifest.licence == "CC-BY-NC-4.0: not for commercial use"


def test_full_disk_is_reported_before_reading_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise JepaExportError("no room")

    monkeypatch.setattr(command, "check_disk_space", full)
    monkeypatch.setattr(command, "read", None)
    arguments = ["--teacher", "vjepa2", "--checkpoint", "none.pt", *CLIP, "--output", str(tmp_path / "x")]
    assert main(["build", *arguments]) == 1
    assert "no room" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vjepa2_vitl_256", "vjepa2_1_vitb_384", "vjepa2_1_vitl_384"])
def test_real_teachers_fit_the_limits(name: str) -> None:
    assert check_teacher(name, find_teacher(name), frames=16, horizon=8) == find_teacher(name).config
