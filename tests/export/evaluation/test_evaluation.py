"""An evaluation measures each variant that runs, reports the others, and detects errors."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_export.bundling.teacher_retention import TeacherRetention, read_teacher_retention
from jepa_export.errors import JepaExportError
from jepa_export.evaluation import evaluate as run
from jepa_export.evaluation.bundle_report import add_to_report
from jepa_export.evaluation.evaluate import GOLDEN, EvaluationPlan, evaluate
from jepa_export.evaluation.figure_tables import tables
from jepa_export.evaluation.results import Evaluation
from jepa_runtime.backends import registry
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import BackendError
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.sources.commands import Floats
from tests.bundles import make_bundle
from tests.errors import code

PLAN = EvaluationPlan(clips=20, episodes=1, seed=5)
NAMES = ["openvino:CPU int8", "openvino:CPU fp32", "onnxruntime:CPU fp32"]


@pytest.fixture(scope="module", autouse=True)
def brief() -> object:
    """End episodes after a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 12)
        yield


@pytest.fixture(scope="module")
def progress() -> dict[str, list[int]]:
    """Record each task, its number of parts, and the number of finished ones."""
    return {}


@pytest.fixture(scope="module")
def evaluation(two_rooms_bundle: Path, progress: dict[str, list[int]]) -> Evaluation:
    def begin(what: str, total: int) -> object:
        done = progress[what] = [total, 0]

        def tick() -> None:
            done[1] += 1

        return tick

    return evaluate(Bundle.open(two_rooms_bundle), PLAN, begin=begin)


def test_runnable_variants_are_measured_and_others_reported_with_the_reason(
    evaluation: Evaluation,
) -> None:
    assert [variant.name for variant in evaluation.variants] == NAMES
    for engine in ("openvino:GPU", "openvino:NPU"):
        assert "no such device" in evaluation.absent[engine] or engine not in evaluation.absent
    assert evaluation.notes == []


def test_reference_is_fp32_of_the_other_engine_and_both_agree(evaluation: Evaluation) -> None:
    int8, fp32, reference = (variant.comparisons[0] for variant in evaluation.variants)
    assert {each.reference for each in (int8, fp32, reference)} == {"onnxruntime:CPU fp32"}
    assert reference.max_relative_error == 0 and reference.worst_drift == [0.0] * 8
    assert fp32.worst_cosine > 1 - 1e-6 and max(fp32.worst_drift) < 1e-4
    assert 0.99 < int8.worst_cosine < int8.mean_cosine < 1 - 1e-6
    assert 0.001 < int8.drift[0] < 0.1


def test_shipped_model_report_has_prediction_surprise_and_cost(evaluation: Evaluation) -> None:
    for variant in evaluation.variants:
        assert variant.prediction_accuracy is not None and variant.surprise is not None
        drift, still = variant.prediction_accuracy.drift, variant.prediction_accuracy.standing_still
        assert all(ours < theirs / 3 for ours, theirs in zip(drift, still, strict=True))
        assert set(variant.surprise.events) == {"teleport", "wall removed"}
        assert all(event.auroc > 0.95 for event in variant.surprise.events.values())
        assert variant.surprise.false_alarms < 0.2
    int8, fp32 = evaluation.variants[:2]
    assert int8.encoder.bytes < fp32.encoder.bytes
    assert int8.encoder.multiply_adds == fp32.encoder.multiply_adds


def test_variants_and_baselines_drive_the_same_episodes(evaluation: Evaluation) -> None:
    drives = [variant.drive for variant in evaluation.variants] + list(evaluation.baselines.values())
    assert [drive.episodes for drive in drives if drive] == [3] * 5
    assert list(evaluation.baselines) == ["straight_line", "random"]


def test_progress_reaches_its_announced_total(evaluation: Evaluation, progress: dict[str, list[int]]) -> None:
    assert set(progress) == {"onnxruntime:CPU fp32, the reference", *NAMES, *evaluation.baselines}
    assert all(total == done for total, done in progress.values()), progress


def test_evaluation_depends_only_on_the_seed(two_rooms_bundle: Path) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    first, again, other = (
        evaluate(bundle, EvaluationPlan(clips=2, episodes=0, seed=seed)).as_dict() for seed in (1, 1, 2)
    )
    assert first == again
    assert first["variants"] != other["variants"]


def test_chart_data_can_be_omitted(evaluation: Evaluation) -> None:
    whole, brief = evaluation.as_dict(), evaluation.as_dict(samples=False)
    assert len(whole["variants"][0]["surprise"]["scores"]["normal"]) == PLAN.clips
    assert "scores" not in brief["variants"][0]["surprise"]
    assert "histogram" not in brief["variants"][0]["comparisons"][0]


def test_retained_teacher_information_is_taken_from_the_bundle(
    two_rooms_bundle: Path, tmp_path: Path
) -> None:
    retention = TeacherRetention(
        teacher="vjepa2_vitl16", clips=64, held_out=True, variance=0.625, cosine=0.91
    )
    bundle = Bundle.open(shutil.copytree(two_rooms_bundle, tmp_path / "distilled"))
    assert read_teacher_retention(bundle) is None
    progress = add_to_report(bundle, retention.as_report())
    evaluation = evaluate(progress, EvaluationPlan(clips=1, episodes=0))
    assert evaluation.as_dict()["teacher"]["variance"] == 0.625
    assert tables(evaluation)[0].rows == [["vjepa2_vitl16", "held out", "62.5", "0.9100", "64"]]
    assert (
        read_teacher_retention(add_to_report(progress, {"of_teacher": {"name": "from another version"}}))
        is None
    )


@pytest.fixture
def robot_bundle(two_rooms_bundle: Path, tmp_path: Path) -> Bundle:
    """Return the bundle of a robot: INT8 only."""
    folder = Path(shutil.copytree(two_rooms_bundle, tmp_path / "int8"))
    fields = Bundle.open(folder).manifest.model_dump(mode="json")
    for role in ("encoder", "predictor", "energy"):
        fields["graphs"][role] = fields["graphs"][role][:1]
        shutil.rmtree(folder / role / "onnx")
    fields["graphs"]["step"] = []
    return seal(folder, fields)


def test_reference_without_fp32_is_the_golden_outputs(robot_bundle: Bundle) -> None:
    evaluation = evaluate(robot_bundle, EvaluationPlan(clips=2, episodes=0))
    (variant,) = evaluation.variants
    (comparison,) = variant.comparisons
    assert comparison.reference == GOLDEN and 0.99 < comparison.worst_cosine < 1
    assert variant.prediction_accuracy is not None
    assert evaluation.notes == [
        "reference: no fp32 graph of the bundle runs on this machine, so variants are compared with its "
        "golden outputs, of 3 frames"
    ]
    assert evaluation.absent["onnxruntime:CPU"] == "the bundle has no graph for it"


class Checkpoint:
    """Fake a student before its export: the reference of the bundle, slightly changed."""

    name = "checkpoint 7"

    def __init__(self, model: WorldModel) -> None:
        self._model = model

    def encode(self, frame: Image) -> Floats:
        return self._model.encode(frame) * np.float32(1.01)

    def roll_out(
        self,
        latents: Floats,
        history_actions: Floats,
        actions: Floats,
        history_states: Floats | None = None,
    ) -> Floats:
        return self._model.predict(actions, latents=latents, history_actions=history_actions).latents


def test_given_checkpoint_is_a_further_reference(two_rooms_bundle: Path) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    with WorldModel.open(bundle, precision="fp32") as model:
        evaluation = evaluate(bundle, EvaluationPlan(clips=2, episodes=0), references=[Checkpoint(model)])
    for variant in evaluation.variants:
        assert [each.reference for each in variant.comparisons] == [NAMES[2], "checkpoint 7"]
    fp32 = evaluation.variants[1].comparisons[1]
    assert fp32.mean_cosine > 1 - 1e-6
    assert fp32.max_relative_error == pytest.approx(0.01 / 1.01, rel=1e-2)


def test_missing_engine_is_reported_and_the_others_are_measured(
    two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'onnxruntime'")

    engine = registry._built_in()["onnxruntime"]
    monkeypatch.setitem(registry._built_in(), "onnxruntime", replace(engine, create=missing))
    evaluation = evaluate(Bundle.open(two_rooms_bundle), EvaluationPlan(clips=2, episodes=0))
    assert "No module named 'onnxruntime'" in evaluation.absent["onnxruntime:CPU"]
    assert evaluation.variants[0].comparisons[0].reference == "openvino:CPU fp32"


def test_variants_for_absent_devices_are_reported(
    two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "engine_devices", lambda: ["openvino:NPU", "onnxruntime:CPU"])
    evaluation = evaluate(Bundle.open(two_rooms_bundle), EvaluationPlan(clips=1, episodes=0))
    assert evaluation.absent["openvino int8"] == "no engine on this machine runs it"


def test_bundle_without_a_runnable_variant_reports_why(
    robot_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise BackendError("no such instruction")

    monkeypatch.setattr(run.WorldModel, "open", fails)
    with pytest.raises(JepaExportError, check=code("evaluation.nothing_runs")):
        evaluate(robot_bundle, EvaluationPlan(clips=1, episodes=0))


def test_nan_ends_the_evaluation_with_variant_and_graph(
    two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = WorldModel.encode

    def broken(self: WorldModel, frame: Image) -> Floats:
        return encode(self, frame) * np.float32("nan" if self.precision == "int8" else 1)

    monkeypatch.setattr(WorldModel, "encode", broken)
    with pytest.raises(JepaExportError, check=code("evaluation.not_finite")):
        evaluate(Bundle.open(two_rooms_bundle), EvaluationPlan(clips=1, episodes=0))


def test_model_of_another_robot_is_compared_but_not_driven(tmp_path: Path) -> None:
    make_bundle(tmp_path / "toy", history_size=3, trained=False)
    fields = Bundle.open(tmp_path / "toy").manifest.model_dump(mode="json")
    fields["io"]["action"]["names"] = ["steering", "throttle"]
    bundle = seal(tmp_path / "toy", fields)
    evaluation = evaluate(bundle, EvaluationPlan(clips=2))
    for variant in evaluation.variants:
        assert variant.prediction_accuracy is None and variant.surprise is None and variant.drive is None
        assert variant.comparisons[0].worst_cosine > 0.99
    assert any(
        "(steering, throttle) are not those of the robot in Two Rooms" in note for note in evaluation.notes
    )
    with pytest.raises(JepaExportError, check=code("evaluation.not_drivable")):
        evaluate(bundle, EvaluationPlan(clips=2, episodes=1))


def test_model_that_reads_states_is_compared_with_those_of_its_golden_outputs(arm_bundle: Path) -> None:
    evaluation = evaluate(Bundle.open(arm_bundle), EvaluationPlan(clips=2))
    assert len(evaluation.variants) >= 3
    for variant in evaluation.variants:
        assert variant.prediction_accuracy is None and variant.surprise is None and variant.drive is None
        assert variant.comparisons[0].worst_cosine > 0.99
    assert any("reads the measured state of the robot (x, y, z" in note for note in evaluation.notes)


def test_model_that_reads_states_without_fp32_is_compared_with_its_golden_outputs(
    arm_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(arm_bundle, tmp_path / "arm"))
    fields = Bundle.open(folder).manifest.to_json_dict()
    for role, graphs in fields["graphs"].items():
        fields["graphs"][role] = [each for each in graphs if each["precision"] != "fp32"]
        shutil.rmtree(folder / role / "onnx", ignore_errors=True)
        for path in (folder / role).glob("openvino/model.*"):
            path.unlink()
    (variant,) = evaluate(seal(folder, fields), EvaluationPlan(clips=2)).variants
    assert variant.precision == "fp16"
    assert variant.comparisons[0].reference == GOLDEN and variant.comparisons[0].worst_cosine > 0.99


def test_untrained_model_is_driven_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "engine_devices", lambda: ["openvino:CPU"])
    bundle = make_bundle(tmp_path / "toy", trained=False)
    evaluation = evaluate(bundle, EvaluationPlan(clips=1))
    assert not evaluation.baselines and any(
        "random weights reaches no goal" in note for note in evaluation.notes
    )
    driven = evaluate(bundle, EvaluationPlan(clips=1, episodes=1))
    assert all(variant.drive and variant.drive.episodes == 3 for variant in driven.variants)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [({"clips": 0}, "--clips"), ({"episodes": -1}, "--episodes"), ({"seed": -1}, "--seed")],
)
def test_numbers_out_of_range_are_rejected(wrong: dict[str, int], option: str) -> None:
    with pytest.raises(JepaExportError, check=code("export.invalid_option")) as error:
        EvaluationPlan(**wrong)
    assert option in str(error.value)


def test_evaluation_needs_no_torch() -> None:
    for module in ("evaluate", "evaluation_page", "figure_tables", "bundle_report", "results"):
        source = importlib.util.find_spec(f"jepa_export.evaluation.{module}")
        assert source is not None and source.origin is not None
        assert "torch" not in Path(source.origin).read_text(encoding="utf-8")
