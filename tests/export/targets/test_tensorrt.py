"""ONNX for TensorRT: products in reduced precision, the rest in fp32, and explicit casts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_export.targets import tensorrt_check
from jepa_export.targets.confined_process import ProcessLimits
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import SMALL_WEIGHTS, Sample
from jepa_export.targets.tensorrt import (
    FP16_MAX,
    HEADROOM,
    PRODUCTS,
    calibrate,
    to_fp16,
    to_int8,
)
from jepa_recipes.two_token.networks import Encoder as ConvolutionalEncoder
from tests.errors import code
from tests.export.compilers import needs_tensorrt

ENCODER = EncoderConfig(px=32, patch=16, width=96, depth=2, heads=2, tokens=3, dim=96)
PREDICTOR = PredictorConfig(tokens=3, dim=32, width=96, depth=2, heads=2, action_scale=(0.5, 2.0))
NETWORKS = ("transformer", "convolutional", "predictor")
Convert = Callable[[onnx.ModelProto, dict[str, float]], onnx.ModelProto]
FORMS: dict[str, Convert] = {"fp16": to_fp16, "int8": to_int8}


def frames(px: int, count: int = 4) -> list[Sample]:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (count, 4, 4, 3))
    return [{"frame": np.kron(one, np.ones((px // 4, px // 4, 1))).astype(np.uint8)[None]} for one in smooth]


def network(name: str) -> tuple[torch.nn.Module, list[Sample], str, tuple[str, ...]]:
    """Return a network with random weights, its inputs and output, and the inputs of dynamic length."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "transformer":
            return Encoder(ENCODER), frames(ENCODER.px), "latent", ()
        if name == "convolutional":
            return ConvolutionalEncoder(), frames(128), "latent", ()
        predictor = Predictor(PREDICTOR)
        for parameter in predictor.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    rng = np.random.default_rng(1)
    samples: list[Sample] = [
        {
            "history_latents": rng.normal(size=(1, 2, 3, 32)).astype(np.float32),
            "actions": rng.uniform(-0.5, 0.5, (6, 4, 2)).astype(np.float32),
            "history_actions": rng.uniform(-0.5, 0.5, (1, 1, 2)).astype(np.float32),
        }
        for _ in range(4)
    ]
    return predictor, samples, "futures", ("actions",)


class Exported:
    """Contain a network as ONNX in every variant, and samples of its inputs."""

    def __init__(self, name: str, folder: Path) -> None:
        module, self.samples, output, free = network(name)
        example = {key: torch.from_numpy(array) for key, array in self.samples[0].items()}
        path = folder / f"{name}.onnx"
        export_onnx(module, example, [output], path, free_axis=free)
        self.fp32 = onnx.load(path)
        self.ranges = calibrate(self.fp32, self.samples)
        self.forms = {form: convert(self.fp32, self.ranges) for form, convert in FORMS.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    folder = tmp_path_factory.mktemp("onnx")
    return {name: Exported(name, folder) for name in NETWORKS}


def run(model: onnx.ModelProto, samples: list[Sample]) -> np.ndarray:
    """Return the concatenated outputs, without graph optimizations: onnxruntime would fuse quantized values
    into INT8 products, whose sums some processors saturate (:mod:`jepa_runtime.backends.cpu_int8`)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([np.asarray(session.run(None, sample)[0]) for sample in samples])


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    ports = (*graph.input, *graph.output, *graph.value_info)
    return {port.name: port.type.tensor_type.elem_type for port in ports} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def product(
    weights: np.ndarray, *, samples: list[Sample] | None = None
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Return the model x [1, n] @ weights [n, m] and its ranges."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model, calibrate(model, samples or [{"x": np.ones((1, rows), np.float32)}])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_only_products_are_reduced_and_inputs_and_outputs_stay(
    name: str, form: str, exported: dict[str, Exported]
) -> None:
    model = exported[name].forms[form]
    of = types(model)
    reduced = {TensorProto.FLOAT16, TensorProto.INT8}
    for node in model.graph.node:
        if node.op_type not in (*PRODUCTS, "Cast", "QuantizeLinear", "DequantizeLinear"):
            assert not reduced & {of[tensor] for tensor in (*node.input, *node.output) if tensor}, (
                node.op_type
            )
    assert model.graph.input == exported[name].fp32.graph.input
    assert model.graph.output == exported[name].fp32.graph.output


@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_variant_computes_every_product_in_half(name: str, exported: dict[str, Exported]) -> None:
    model = exported[name].forms["fp16"]
    of = types(model)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    assert products
    assert {of[tensor] for node in products for tensor in (*node.input, *node.output)} == {
        TensorProto.FLOAT16
    }


@pytest.mark.parametrize(("form", "cosine"), [("fp16", 0.99999), ("int8", 0.995)])
@pytest.mark.parametrize("name", NETWORKS)
def test_reduced_graph_matches_fp32(
    name: str, form: str, cosine: float, exported: dict[str, Exported]
) -> None:
    given = exported[name]
    expected, actual = (run(model, given.samples) for model in (given.fp32, given.forms[form]))
    norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(actual, axis=-1)
    assert ((expected * actual).sum(axis=-1) / norms).min() >= cosine


def test_int8_weights_are_scaled_per_channel_and_activations_per_tensor(
    exported: dict[str, Exported],
) -> None:
    model = exported["transformer"].forms["int8"]
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = 0
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0].endswith("_dequantized"):
            data, weights = (producers[name] for name in node.input)
            assert producers[data.input[0]].op_type == "QuantizeLinear"
            assert constants[data.input[1]].shape == ()
            assert constants[weights.input[0]].dtype == np.int8
            assert constants[weights.input[0]].size >= SMALL_WEIGHTS
            assert constants[weights.input[1]].shape == constants[weights.input[0]].shape[1:]
            assert not constants[data.input[2]].any() and not constants[weights.input[2]].any()
            quantized += 1
    # Two blocks of four, five of the pooling, one read-out.
    assert quantized == 18


@pytest.mark.parametrize("form", FORMS)
def test_bytes_feed_only_a_cast(form: str, exported: dict[str, Exported]) -> None:
    graph = exported["transformer"].forms[form].graph
    (reader,) = [node for node in graph.node if "frame" in node.input]
    assert reader.op_type == "Cast"


def test_product_that_reads_bytes_is_exact_in_int8(exported: dict[str, Exported]) -> None:
    graph = exported["transformer"].forms["int8"].graph
    first = next(node for node in graph.node if node.op_type == "MatMul")
    assert types(exported["transformer"].forms["int8"])[first.input[1]] == TensorProto.FLOAT16


@pytest.mark.parametrize("largest", [0.9, 1.1])
def test_product_that_may_overflow_fp16_stays_in_fp32(largest: float) -> None:
    sample: Sample = {"x": np.full((1, 1), largest * FP16_MAX / HEADROOM, np.float32)}
    model, ranges = product(np.ones((1, 1)), samples=[sample])
    reduced = to_fp16(model, ranges)
    assert ("Cast" in {node.op_type for node in reduced.graph.node}) == (largest < 1)
    assert run(reduced, [sample]) == pytest.approx(run(model, [sample]), rel=1e-3)


@pytest.mark.parametrize("convert", FORMS.values())
def test_ranges_of_another_graph_are_rejected(convert: Convert) -> None:
    model, _ = product(np.ones((1, SMALL_WEIGHTS)))
    with pytest.raises(JepaExportError, check=code("target.range_missing")):
        convert(model, {"elsewhere": 1.0})


@pytest.mark.parametrize("convert", FORMS.values())
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_non_finite_values_are_rejected(value: float, convert: Convert) -> None:
    weights = np.ones((1, SMALL_WEIGHTS))
    with pytest.raises(JepaExportError, check=code("target.range_not_finite")):
        convert(*product(weights, samples=[{"x": np.full((1, 1), value, np.float32)}]))
    model, ranges = product(weights)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights * np.float32(value), "weights"))
    with pytest.raises(JepaExportError, check=code("target.range_not_finite")):
        convert(model, ranges)


def test_sample_that_does_not_match_the_graph_is_reported_with_our_error() -> None:
    with pytest.raises(JepaExportError, check=code("target.calibration_failed")):
        product(np.ones((2, 2)), samples=[{"x": np.ones((1, 3), np.float32)}])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), magnitude=st.floats(-6, 3), empty=st.integers(0, 127))
def test_weight_error_is_at_most_half_a_quantization_step(seed: int, magnitude: float, empty: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(SMALL_WEIGHTS // 128, 128)) * 10.0 ** rng.uniform(
        magnitude - 2, magnitude, 128
    )
    weights[:, empty] = 0
    model, ranges = product(weights)
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in to_int8(model, ranges).graph.initializer
    }
    dequantized = constants["weights_int8"] * constants["weights_scale"].astype(np.float64)
    steps = np.abs(weights).max(axis=0) / 127
    assert (np.abs(dequantized - weights.astype(np.float32)) <= 0.501 * steps).all()


@needs_tensorrt
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_tensorrt_parses_and_builds_the_graph(
    name: str, form: str, exported: dict[str, Exported], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(exported[name].forms[form], path)
    report = tensorrt_check.check(path, count=6)
    assert report.built and report.problems == ()


@needs_tensorrt
def test_graph_that_tensorrt_cannot_parse_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model, _ = product(np.ones((2, 2)))
    model.graph.node[0].op_type = "NonMaxSuppression"
    onnx.save(model, path)
    report = tensorrt_check.check(path)
    assert not report.built and "cannot read it: " in report.problems[0]


@needs_tensorrt
def test_check_times_out(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(product(np.ones((2, 2)))[0], path)
    with pytest.raises(JepaExportError, check=code("target.compiler_timeout")):
        tensorrt_check.check(path, limits=ProcessLimits(time_s=0.05))


def test_missing_tensorrt_is_reported_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_check, "NEEDED", ("no_such_module",))
    with pytest.raises(JepaExportError, check=code("target.tensorrt_missing")):
        tensorrt_check.check(tmp_path / "model.onnx")
