"""export_bundle with a predictor that predicts from the history alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from jepa_export import ArrayRecording, JepaExportError, export_bundle
from jepa_export.cli import main as export
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_runtime.util.opencv import cv2, load_opencv
from tests.errors import code
from tests.export.bundling import onnx_files
from tests.export.bundling import own_networks as own

TARGETS = ("openvino", "onnx", "npu", "tensorrt")
HORIZON = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("action_free") / "bundle"
    return export_bundle(folder, **own.action_free_arguments(targets=TARGETS, num_samples=9))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images without actions, one step apart."""
    load_opencv()
    folder = tmp_path_factory.mktemp("images")
    for index, frame in enumerate(own.recording(9, count=100).frames(np.arange(100))):
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame[..., ::-1])
    return folder


def expected_futures(latents: torch.Tensor) -> torch.Tensor:
    """Return the future [H, T, D] of a history [W, T, D], computed by the networks."""
    predictor, known = own.action_free_arguments()["predictor"], latents[None]
    with torch.no_grad():
        for _ in range(HORIZON):
            known = torch.cat([known, predictor(known[:, -2:])[:, None]], dim=1)
    return known[0, -HORIZON:]


def test_bundle_without_actions_passes_jepa_runtime_verify(bundle: Bundle) -> None:
    assert runtime(["verify", str(bundle.path)]) == 0


def test_bundle_without_actions_has_the_graphs_and_inputs_of_one_with_actions(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert not manifest.takes_actions and manifest.io.action.names == ("none",)
    variants = [(each.target, each.precision) for each in manifest.graphs.encoder]
    assert {target for target, _ in variants} == set(TARGETS)
    assert [(each.target, each.precision) for each in manifest.graphs.predictor] == variants
    assert {each.target for each in manifest.graphs.energy} == set(TARGETS)
    assert [each.target for each in manifest.graphs.step] == ["npu", "npu"]
    graph = onnx.load(bundle.path / "predictor" / "onnx" / "model_fp32.onnx").graph
    assert {value.name for value in graph.input} == {"history_latents", "actions", "history_actions"}


@pytest.mark.parametrize("engine", ["onnxruntime:CPU", "openvino:CPU"])
def test_every_candidate_has_the_future_of_the_network(bundle: Bundle, engine: str) -> None:
    frames = own.recording(9).frames(np.arange(2))
    nothing = np.zeros((9, HORIZON, 1), np.float32)
    with WorldModel.open(bundle, engine=engine, precision="fp32") as model:
        latents = np.stack([model.encode(frame) for frame in frames])
        futures = model.predict(nothing, latents=latents, history_actions=nothing[0, :1], goal=latents[1])
    expected = expected_futures(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(futures.latents, np.broadcast_to(expected, (9, *expected.shape)), atol=1e-4)
    assert futures.energies is not None and futures.energies.shape == (9, HORIZON)


def test_errors_without_actions_are_those_of_the_held_out_recording(bundle: Bundle) -> None:
    frames = own.recording(3).frames(np.arange(12))
    with WorldModel.open(bundle, engine="onnxruntime:CPU", precision="fp32") as model:
        latents = torch.from_numpy(np.stack([model.encode(frame) for frame in frames]))
    errors = torch.stack(
        [
            (expected_futures(latents[now - 1 : now + 1]) - latents[now + 1 : now + 1 + HORIZON])
            .flatten(1)
            .norm(dim=1)
            for now in range(1, 12 - HORIZON)
        ]
    )
    np.testing.assert_allclose(bundle.manifest.error_bounds, errors.quantile(0.9, dim=0), rtol=1e-3)
    rmse = errors[:, 0] / (own.TOKENS * own.DIM) ** 0.5
    assert bundle.manifest.surprise_threshold == pytest.approx(float(rmse.quantile(0.999)), rel=1e-3)
    assert bundle.manifest.goal_threshold > 0


def test_evaluate_compares_with_the_frames_that_followed(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    options = ["--data", str(images), "--clips", "2", "--json", str(results)]
    assert export(["evaluate", str(bundle.path), *options]) == 0
    found = json.loads(results.read_text())
    assert len(found["variants"][0]["prediction_accuracy"]["drift"]) == HORIZON


def test_model_without_actions_runs_on_images(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    results = tmp_path / "run.json"
    options = ["--source", str(images), "--rate", "5", "--duration", "2", "--json", str(results)]
    assert runtime(["run", str(bundle.path), *options]) == 0
    assert json.loads(results.read_text())["predict_ms"]["n"] > 3


def test_model_without_actions_is_calibrated_on_images(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    options = ["--source", str(images), "--rate", "5", "--output", str(tmp_path / "calibrated")]
    assert runtime(["calibrate", str(bundle.path), *options]) == 0
    calibrated = Bundle.open(tmp_path / "calibrated").manifest
    assert calibrated.normal_scores is not None and len(calibrated.normal_scores.highest) > 3
    assert calibrated.error_bounds != bundle.manifest.error_bounds


def test_variants_are_added_to_a_bundle_without_actions(tmp_path: Path, images: Path) -> None:
    export_bundle(tmp_path / "bundle", **own.action_free_arguments(targets=("onnx",)))
    options = ["--target", "openvino", "--calibration", str(images), "--output", str(tmp_path / "more")]
    assert export(["add-variant", str(tmp_path / "bundle"), *options]) == 0
    assert runtime(["verify", str(tmp_path / "more")]) == 0


def test_one_candidate_is_the_default_without_actions(tmp_path: Path) -> None:
    arguments = own.action_free_arguments(targets=("openvino", "npu"))
    manifest = export_bundle(tmp_path / "bundle", **arguments).manifest
    assert manifest.num_samples == 1
    assert runtime(["verify", str(tmp_path / "bundle")]) == 0


def test_actions_of_recordings_are_ignored(tmp_path: Path, bundle: Bundle) -> None:
    runs = {"calibration": [own.recording(1), own.recording(2)], "held_out": [own.recording(3)]}
    found = export_bundle(tmp_path / "bundle", **own.action_free_arguments(targets=("onnx",), **runs))
    assert found.manifest.error_bounds == pytest.approx(bundle.manifest.error_bounds)


def test_onnx_file_without_actions_gives_the_same_bounds(tmp_path: Path, bundle: Bundle) -> None:
    networks = own.action_free_arguments()
    files = {
        "encoder": onnx_files.write(tmp_path / "encoder.onnx", networks["encoder"], onnx_files.IMAGES),
        "predictor": onnx_files.write(tmp_path / "predictor.onnx", networks["predictor"], onnx_files.LATENTS),
    }
    arguments = own.action_free_arguments(targets=("openvino", "onnx"), **files)
    found = export_bundle(tmp_path / "bundle", **arguments)
    np.testing.assert_allclose(found.manifest.error_bounds, bundle.manifest.error_bounds, rtol=1e-4)
    assert runtime(["verify", str(tmp_path / "bundle")]) == 0


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"predictor": own.Predictor()}, "network.forward_failed"),
        ({"predictor": own.ActionFree(3)}, "network.forward_failed"),
        ({"held_out": []}, "data.no_recordings"),
        ({"held_out": [own.recording(4, count=4, known=False)]}, "data.no_clip"),
        ({"actions": own.ACTIONS}, "data.action_mismatch"),
    ],
)
def test_unusable_argument_without_actions_is_an_error(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        export_bundle(tmp_path / "bundle", **own.action_free_arguments(targets=("onnx",)) | changed)
    assert not list(tmp_path.iterdir())


def test_onnx_predictor_with_actions_is_an_error(tmp_path: Path) -> None:
    files = onnx_files.write_pair(tmp_path)
    with pytest.raises(JepaExportError, check=code("network.onnx_wrong_inputs")):
        export_bundle(tmp_path / "bundle", **own.action_free_arguments(targets=("onnx",), **files))


@pytest.mark.parametrize("changed", [{"action_names": ("vx",)}, {"action_units": ("m/s",)}, {"step_s": 0.0}])
def test_recording_with_names_but_without_actions_is_an_error(changed: dict[str, Any]) -> None:
    with pytest.raises(JepaExportError, check=code("data.invalid_actions")):
        ArrayRecording(np.zeros((4, 8, 8, 3), np.uint8), **{"step_s": 0.2} | changed)
