"""jepa-export train-predictor on the encoder of a bundle, which does not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export.bundling import builder
from jepa_export.bundling.manifest_fields import ActionSpace
from jepa_export.bundling.predictor_bundle import ScaledPredictor, create_predictor, select_action_space
from jepa_export.bundling.staging import write_report
from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_export.cli import main
from jepa_export.distillation import distill
from jepa_export.distillation.frozen_encoders import BundleEncoder
from jepa_export.students.layers import unit_scale
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.bundle import seal
from jepa_runtime.cli import main as runtime
from jepa_runtime.serving.pipeline import Pipeline
from tests.bundles import make_bundle
from tests.export.distillation.tiny import DATA, PACE, families

# The bundle has six variants, each of which is built and checked.
pytestmark = pytest.mark.timeout(400)
SHAPE = ["--history", "1", "--horizon", "2", "--num-samples", "16", "--batch", "4"]
TRAIN = ["train-predictor", "--student", "tiny", *SHAPE, *PACE[2:], "--allow-collapse", *DATA]
CONFIG = PredictorConfig(tokens=2, dim=8, width=16, depth=1, heads=2, action_scale=(1.0,))


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with families():
        yield


@pytest.fixture(scope="module", autouse=True)
def without_compilers() -> Iterator[None]:
    """The shipped bundle has NPU and TensorRT variants; test_vendor_compilers.py tests their compilers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "run_vendor_compilers", lambda *_, **__: {})
        yield


@pytest.fixture(scope="module")
def post_trained(two_rooms_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return Two Rooms' encoder with a predictor trained here."""
    out = tmp_path_factory.mktemp("post_trained") / "run"
    assert main([*TRAIN, "--encoder", str(two_rooms_bundle), "--output", str(out)]) == 0
    return out / "bundle"


def changed(source: Path, folder: Path, **fields: Any) -> Path:
    """Return a copy of a bundle with changed fields."""
    shutil.copytree(source, folder)
    seal(folder, Bundle.open(folder).manifest.model_dump(mode="json") | fields)
    return folder


def open_model(folder: Path) -> Callable[[], WorldModel]:
    return lambda: WorldModel.open(folder, num_samples=16)


def same_latents(one: Path, other: Path, **how: Any) -> bool:
    with WorldModel.open(one, **how) as first, WorldModel.open(other, **how) as second:
        return first.latent_space == second.latent_space


def test_encoder_is_unchanged_in_every_variant(two_rooms_bundle: Path, post_trained: Path) -> None:
    for how in (
        {"precision": "int8"},
        {"precision": "fp32"},
        {"engine": "onnxruntime:CPU", "precision": "fp32"},
    ):
        assert same_latents(two_rooms_bundle, post_trained, **how)
    before, after = (Bundle.open(folder).manifest.graphs for folder in (two_rooms_bundle, post_trained))
    for role in ("encoder", "energy"):
        kinds = [
            [(each.target, each.precision) for each in graphs.variants(role)] for graphs in (before, after)
        ]
        assert kinds[0] == kinds[1]


def test_result_is_the_next_version_of_the_same_model_and_verifies(post_trained: Path) -> None:
    manifest = Bundle.open(post_trained).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("two_rooms", "1.3.0", True)
    assert "the encoder of two_rooms 1.2.0 as it is" in manifest.description
    assert min(manifest.error_bounds) > 0
    assert manifest.io.frame.mean == (128.0, 128.0, 128.0)
    assert runtime(["verify", str(post_trained)]) == 0


@pytest.mark.parametrize("earlier", [["0123456789ab"], None])
def test_training_data_of_the_encoder_stays_marked(
    earlier: list[str] | None, two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the encoder's recordings are unknown, none are marked: those of the predictor are not all."""
    folder = Path(shutil.copytree(two_rooms_bundle, tmp_path / "earlier"))
    retention = TeacherRetention(
        teacher="a teacher", clips=64, held_out=True, variance=0.5, cosine=0.9
    ).as_report()
    write_report(folder, retention | ({} if earlier is None else {"trained_on": earlier}))
    seal(folder, Bundle.open(two_rooms_bundle).manifest)
    fields: dict[str, Any] = {}
    monkeypatch.setattr(distill._Run, "train", lambda *_: None)
    monkeypatch.setattr(distill, "write_predictor_bundle", lambda *_, **named: fields.update(named))
    assert main([*TRAIN, "--encoder", str(folder), "--output", str(tmp_path / "run")]) == 0
    marks = fields["report"].get("trained_on")
    assert retention.items() <= fields["report"].items()
    assert marks is None if earlier is None else "0123456789ab" in marks and 1 < len(marks) < 13


def test_goal_energies_and_threshold_are_unchanged(two_rooms_bundle: Path, post_trained: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    energies = []
    for folder in (two_rooms_bundle, post_trained):
        with WorldModel.open(folder) as model:
            here, goal = (model.encode(frame) for frame in frames)
            energies.append(float(model.energy(here, goal)))
    assert energies[0] == energies[1]
    before, after = (Bundle.open(folder).manifest for folder in (two_rooms_bundle, post_trained))
    assert before.goal_threshold == after.goal_threshold


def test_poses_of_goals_are_unchanged(tmp_path: Path) -> None:
    given = make_bundle(tmp_path / "toy", relative_pose=True)
    fields = given.manifest.model_dump(mode="json")
    for role, variants in fields["graphs"].items():
        fields["graphs"][role] = [each for each in variants if each["precision"] == "fp32"]
        for half in (given.path / role).glob("openvino/model_fp16.*"):
            half.unlink()
    given = seal(given.path, fields)
    assert main([*TRAIN, "--encoder", str(given.path), "--output", str(tmp_path / "run")]) == 0
    made = Bundle.open(tmp_path / "run" / "bundle")
    before, after = (
        [bundle.read(path) for variant in bundle.manifest.graphs.relative_pose for path in variant.paths]
        for bundle in (given, made)
    )
    assert len(before) == 3 and before == after
    np.testing.assert_array_equal(made.golden().relative_pose, given.golden().relative_pose)
    assert runtime(["verify", str(made.path)]) == 0


def test_result_replaces_the_given_bundle_in_a_running_pipeline(
    two_rooms_bundle: Path, post_trained: Path
) -> None:
    pipeline = Pipeline(open_model(two_rooms_bundle), on_result=lambda _: None)
    pipeline.start()
    assert pipeline.swap(open_model(post_trained))
    pipeline.stop()


@pytest.mark.slow
def test_student_bundle_is_accepted(tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "run"
    build = ["build", "--student", "tiny", "--untrained", "--size", "32", "--num-samples", "16"]
    assert main([*build, "--output", str(given)]) == 0
    arguments = [*TRAIN, "--history", "2", "--encoder", str(given), "--untrained-teacher"]
    assert main([*arguments, "--output", str(out)]) == 0
    kinds = [("openvino:CPU", "int8"), ("openvino:CPU", "fp32"), ("onnxruntime:CPU", "fp32")]
    for engine, precision in kinds:
        how = {"engine": engine, "precision": precision, "allow_untrained": True}
        assert same_latents(given, out / "bundle", **how)
    manifest = Bundle.open(out / "bundle").manifest
    assert manifest.history_size == 2
    assert not manifest.trained, "its encoder has random weights as before"
    assert runtime(["verify", str(out / "bundle")]) == 0


@pytest.mark.slow
def test_bundle_of_a_clip_teacher_is_encoded_frame_by_frame(tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "run"
    build = ["build", "--teacher", "tiny_vjepa2", "--untrained", "--frames", "4", "--horizon", "1"]
    assert main([*build, "--output", str(given)]) == 0
    arguments = [*TRAIN, "--encoder", str(given), "--untrained-teacher"]
    assert main([*arguments, "--output", str(out)]) == 0
    assert same_latents(given, out / "bundle", precision="fp32", allow_untrained=True)
    assert runtime(["verify", str(out / "bundle")]) == 0


def test_encoder_computes_the_golden_latents(two_rooms_bundle: Path) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    golden = bundle.golden()
    latents = BundleEncoder(bundle)(torch.tensor(golden.frames))
    np.testing.assert_allclose(latents, golden.latents, atol=1e-3)


def test_impossible_settings_are_reported_at_once(
    two_rooms_bundle: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stderr_of(encoder: Path, *further: str) -> str:
        out = tmp_path / "run"
        assert main([*TRAIN, "--encoder", str(encoder), *further, "--output", str(out)]) == 1
        assert not out.exists()
        return " ".join(capsys.readouterr().err.split())

    random = changed(two_rooms_bundle, tmp_path / "random", trained=False)
    assert "random: the encoder has random weights" in stderr_of(random)
    licensed = changed(two_rooms_bundle, tmp_path / "licensed", licence="CC-BY-NC-4.0")
    assert "the license CC-BY-NC-4.0 forbids commercial use" in stderr_of(licensed)
    assert "are too large: num_samples x horizon" in stderr_of(two_rooms_bundle, "--num-samples", "5000000")
    assert "encoder variant openvino/fp16" in stderr_of(toy_bundle)
    graphs = Bundle.open(two_rooms_bundle).manifest.graphs.model_dump(mode="json")
    quantized = {role: [form for form in graphs[role] if form["target"] == "openvino"] for role in graphs}
    lean = changed(two_rooms_bundle, tmp_path / "lean", graphs=quantized)
    assert "lean: no fp32 encoder for OpenVINO or ONNX Runtime" in stderr_of(lean)


def test_latents_keep_their_scale() -> None:
    # The predictor's initial weights, too.
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([[0.1], [30.0]])
    latents = 5 + spread * torch.randn(64, 2, 8, generator=generator)
    predictor = create_predictor(CONFIG, latents)
    assert isinstance(predictor, ScaledPredictor)
    actions = torch.zeros(3, 4, 1)
    with torch.no_grad():
        # Before training, the prediction equals the present.
        futures = predictor(latents[:1, None], actions)
        torch.testing.assert_close(futures, latents[:1, None].expand(3, 4, 2, 8))
        torch.nn.init.normal_(predictor.out.weight, generator=generator)
        change = (predictor(latents[:1, None], actions)[:, 0] - latents[:1]).abs().mean((0, 2))
    assert 100 < change[1] / change[0] < 1000
    assert type(create_predictor(CONFIG, unit_scale(latents))) is Predictor


def test_constant_latent_values_do_not_cause_infinity() -> None:
    latents = torch.randn(64, 2, 8)
    latents[:, 0, 0] = 3
    with torch.no_grad():
        futures = create_predictor(CONFIG, latents)(latents[:1, None] + 1, torch.zeros(1, 1, 1))
    assert bool(torch.isfinite(futures).all())


def test_action_limits_stay_those_of_the_bundle_for_data_within_them(two_rooms_bundle: Path) -> None:
    bundle = Bundle.open(two_rooms_bundle)

    def data(low: float, names: tuple[str, ...] = ("linear.x", "linear.y")) -> ActionSpace:
        return ActionSpace(names=names, units=("m/s", "m/s"), low=(low, -1), high=(1, 1), max_norm=None)

    stated = bundle.manifest.io.action
    assert select_action_space(data(-1), bundle) == ActionSpace(**stated.model_dump())
    assert select_action_space(data(-1.3), bundle) == data(-1.3)
    assert select_action_space(data(-1, names=("linear.x", "angular.z")), bundle) == data(
        -1, names=("linear.x", "angular.z")
    )
