"""export_bundle with ONNX files instead of torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from jepa_export import JepaExportError, export_bundle
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_runtime.util import file_sha256
from tests.errors import code
from tests.export.bundling import onnx_files
from tests.export.bundling import own_networks as own

TARGETS = ("openvino", "onnx", "npu", "tensorrt")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return onnx_files.write_pair(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Bundle:
    folder = tmp_path_factory.mktemp("onnx") / "bundle"
    return export_bundle(folder, **own.arguments(targets=TARGETS, **files))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the bundle of the same networks as torch modules."""
    folder = tmp_path_factory.mktemp("torch") / "bundle"
    return export_bundle(folder, **own.arguments(targets=TARGETS))


def test_bundle_of_onnx_files_passes_jepa_runtime_verify(bundle: Bundle) -> None:
    assert runtime(["verify", str(bundle.path)]) == 0


def test_bundle_of_onnx_files_has_the_manifest_of_the_modules(bundle: Bundle, reference: Bundle) -> None:
    found, expected = bundle.manifest, reference.manifest
    assert found.graphs == expected.graphs
    assert found.io == expected.io
    np.testing.assert_allclose(found.error_bounds, expected.error_bounds, rtol=1e-4)
    assert found.surprise_threshold == pytest.approx(expected.surprise_threshold, rel=1e-4)
    assert found.goal_threshold == pytest.approx(expected.goal_threshold, rel=1e-4)


@pytest.mark.parametrize(
    ("engine", "precision", "tolerance"),
    [("onnxruntime:CPU", "fp32", 1e-4), ("openvino:CPU", "fp32", 1e-4), ("openvino:CPU", "int8", 0.05)],
)
def test_bundle_of_onnx_files_predicts_as_that_of_the_modules(
    bundle: Bundle, reference: Bundle, engine: str, precision: Any, tolerance: float
) -> None:
    frames = own.recording(9).frames(np.arange(2))
    actions = np.random.default_rng(0).uniform(-1, 1, (9, 3, 2)).astype(np.float32)
    before = np.array([[0.5, -0.5]], np.float32)
    outputs = []
    for each in (bundle, reference):
        with WorldModel.open(each, engine=engine, precision=precision) as model:
            latents = np.stack([model.encode(frame) for frame in frames])
            futures = model.predict(actions, latents=latents, history_actions=before, goal=latents[1])
        outputs.append((latents, futures.latents, futures.energies))
    for found, expected in zip(*outputs, strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_predictor_graph_stores_shared_weights_once(bundle: Bundle) -> None:
    graph = onnx.load(bundle.path / "predictor" / "onnx" / "model_fp32.onnx").graph
    large = [tensor.name for tensor in graph.initializer if len(tensor.dims) == 2]
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(large) == 2 and len(products) == 2 * 3
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_report_states_the_hash_of_each_file(bundle: Bundle, files: dict[str, Path]) -> None:
    report = bundle.report()
    assert report is not None
    for role, path in files.items():
        assert report["onnx_files"][role]["sha256"] == file_sha256(path)
        assert report["onnx_files"][role]["opset"] == 17
    assert [each["graph"] for each in report["int8"]] == ["encoder"]


def test_module_and_file_can_be_combined(tmp_path: Path, files: dict[str, Path]) -> None:
    arguments = own.arguments(targets=("onnx",), encoder=str(files["encoder"]))
    report = export_bundle(tmp_path / "bundle", **arguments).report()
    assert report is not None and list(report["onnx_files"]) == ["encoder"]


def test_energy_of_a_file_sets_the_goal_threshold(tmp_path: Path, files: dict[str, Path]) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, latents: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            return 2 * (latents - goal).abs().flatten(1).mean(1)

    latents = torch.zeros(2, own.TOKENS, own.DIM)
    energy = onnx_files.write(tmp_path / "energy.onnx", Doubled(), latents, latents[:1])
    one = export_bundle(tmp_path / "one", **own.arguments(targets=("onnx",), **files))
    two = export_bundle(tmp_path / "two", **own.arguments(targets=("onnx",), energy=energy, **files))
    assert two.manifest.goal_threshold == pytest.approx(2 * one.manifest.goal_threshold, rel=1e-5)


def test_encoder_of_one_image_is_supported(tmp_path: Path, files: dict[str, Path]) -> None:
    encoder = onnx_files.write(
        tmp_path / "one.onnx", own.arguments()["encoder"], onnx_files.IMAGES[:1], free=False
    )
    folder = tmp_path / "bundle"
    arguments = own.arguments(targets=("openvino", "npu"), **files | {"encoder": encoder})
    export_bundle(folder, **arguments)
    assert runtime(["verify", str(folder)]) == 0


def test_fixed_batch_is_freed_where_the_graph_allows_it(tmp_path: Path, files: dict[str, Path]) -> None:
    class Newest(torch.nn.Module):
        def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return latents[:, -1] + actions[:, -1:, :1]

    inputs = (onnx_files.LATENTS, onnx_files.ACTIONS)
    predictor = onnx_files.write(tmp_path / "fixed.onnx", Newest(), *inputs, free=False)
    folder = tmp_path / "bundle"
    export_bundle(folder, **own.arguments(targets=("onnx",), **files | {"predictor": predictor}))
    assert runtime(["verify", str(folder)]) == 0


def test_inputs_in_another_order_are_identified_by_their_axes(tmp_path: Path, files: dict[str, Path]) -> None:
    model = onnx.load(files["predictor"])
    latents, actions = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend([actions, latents])
    onnx.save(model, tmp_path / "swapped.onnx")
    changed = files | {"predictor": tmp_path / "swapped.onnx"}
    export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), **changed))


def test_weights_in_another_file_are_hashed(tmp_path: Path, files: dict[str, Path]) -> None:
    model = onnx.load(files["encoder"])
    onnx.save(
        model, tmp_path / "encoder.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    changed = files | {"encoder": tmp_path / "encoder.onnx"}
    report = export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), **changed)).report()
    assert report is not None
    hashes = report["onnx_files"]["encoder"]["external_data"]
    assert hashes == {"weights.bin": file_sha256(tmp_path / "weights.bin")}


@pytest.mark.filterwarnings("ignore")
def test_files_of_the_default_exporter_of_torch_are_supported(tmp_path: Path) -> None:
    """It writes Gelu of opset 20, which bundles with opset 18 contain as its definition."""
    torch.manual_seed(0)
    encoder, predictor = own.Attention().eval(), own.Predictor().eval()
    rows = {0: torch.export.Dim("rows")}
    networks: dict[str, Path] = {}
    for role, network, inputs in (
        ("encoder", encoder, (onnx_files.IMAGES,)),
        ("predictor", predictor, (onnx_files.LATENTS, onnx_files.ACTIONS)),
    ):
        networks[role] = tmp_path / f"{role}.onnx"
        torch.onnx.export(
            network, inputs, networks[role], dynamo=True, dynamic_shapes=(rows,) * len(inputs), verbose=False
        )
    assert "Gelu" in {node.op_type for node in onnx.load(networks["encoder"]).graph.node}
    folder = tmp_path / "bundle"
    export_bundle(folder, **own.arguments(targets=("onnx", "tensorrt"), **networks))
    operations = {
        node.op_type for node in onnx.load(folder / "encoder" / "onnx" / "model_fp32.onnx").graph.node
    }
    assert "Erf" in operations and not {"Gelu", "CastLike"} & operations
    assert runtime(["verify", str(folder)]) == 0


def wrong_encoder(folder: Path, case: str) -> Path:
    path = folder / "wrong.onnx"
    images = ("images", FLOAT, ["N", 3, own.PX, own.PX])
    if case == "missing":
        return path
    if case == "malformed":
        path.write_bytes(b"not a graph")
        return path
    graphs: dict[str, dict[str, Any]] = {
        "type": {"inputs": [("images", HALF, ["N", 3, own.PX, own.PX])]},
        "layout": {"inputs": [("images", FLOAT, ["N", own.PX, own.PX, 3])]},
        "two inputs": {"inputs": [images, ("mask", FLOAT, ["N"])]},
        "two outputs": {"inputs": [images], "outputs": ["a", "b"]},
        "custom": {"inputs": [images], "op": "FusedGelu", "domain": "com.microsoft"},
        "invalid": {"inputs": [images], "op": "NoSuchOperation"},
        "opset": {"inputs": [images], "op": "RegexFullMatch", "opset": 20},
        "latent": {"inputs": [images]},
        "size": {"inputs": [("images", FLOAT, ["N", 3, 24, 24])]},
    }
    return onnx_files.graph(path, **graphs[case])


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("missing", "network.onnx_unreadable"),
        ("malformed", "network.onnx_invalid"),
        ("invalid", "network.onnx_invalid"),
        ("type", "network.onnx_wrong_type"),
        ("layout", "network.onnx_wrong_inputs"),
        ("two inputs", "network.onnx_wrong_inputs"),
        ("two outputs", "network.onnx_wrong_outputs"),
        ("custom", "network.onnx_custom_operation"),
        ("opset", "network.onnx_opset"),
        ("latent", "network.wrong_shape"),
        ("size", "network.onnx_shape_mismatch"),
    ],
)
def test_unusable_encoder_file_is_an_error_and_writes_nothing(
    tmp_path: Path, files: dict[str, Path], case: str, expected: str
) -> None:
    changed = files | {"encoder": wrong_encoder(tmp_path, case)}
    with pytest.raises(JepaExportError, check=code(expected)):
        export_bundle(tmp_path / "made" / "bundle", **own.arguments(targets=("onnx",), **changed))
    assert not (tmp_path / "made").exists() or not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    ("network", "free", "expected"),
    [
        (own.FixedBatch(), False, "network.onnx_fixed_batch"),
        (own.WithTime(), True, "network.wrong_shape"),
        (own.Mixing(), True, "network.depends_on_batch"),
    ],
)
def test_unusable_predictor_file_is_an_error(
    tmp_path: Path, files: dict[str, Path], network: torch.nn.Module, free: bool, expected: str
) -> None:
    inputs = (onnx_files.LATENTS[:1], onnx_files.ACTIONS[:1])
    path = onnx_files.write(tmp_path / "wrong.onnx", network, *inputs, free=free)
    with pytest.raises(JepaExportError, check=code(expected)):
        export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), **files | {"predictor": path}))


def test_predictor_file_of_another_history_is_an_error(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(JepaExportError, check=code("network.onnx_shape_mismatch")):
        export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), history=1, **files))
