"""Multiply-adds equal those calculated by hand."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import openvino.opset15 as ops
import pytest
from onnx import TensorProto, helper, numpy_helper

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import (
    bundle_multiply_adds,
    format_multiply_adds,
    multiply_adds,
    network_multiply_adds,
)
from jepa_runtime.backends.base import Graph
from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.model.compiled_graphs import graphs
from tests.bundles import ACTIONS, DIM, HORIZON, NUM_SAMPLES, SIZE, TOKENS
from tests.errors import code

FLAT = TOKENS * DIM


def saved(model: ov.Model) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.serialize(model, path)
        return replace(Graph.read(path), name="drawn")


def parameter(*shape: int) -> ov.Node:
    node = ops.parameter(shape, np.float32, name="x")
    node.output(0).get_tensor().set_names({"x"})
    return node


def weights(*shape: int) -> ov.Node:
    return ops.constant(np.ones(shape, np.float32))


def counted(parts: ov.Node, x: ov.Node, shape: tuple[int, ...]) -> int:
    return multiply_adds(saved(ov.Model([ops.result(parts)], [x], "drawn")), {"x": shape})


@pytest.mark.parametrize(("engine", "precision"), [("openvino:CPU", "fp32"), ("onnxruntime:CPU", "fp32")])
def test_bundle_cost_covers_all_candidates_and_steps(toy_bundle: Path, engine: str, precision: str) -> None:
    backend = create_backend(engine)
    counts = graphs(Bundle.open(toy_bundle), backend, precision, 16)
    backend.close()
    costs = {role: multiply_adds(graph, shapes) for role, (graph, shapes) in counts.items()}
    assert costs["encoder"] == SIZE * SIZE * 3 * FLAT
    # The first step starts from the single history, the others from the state of each candidate.
    steps = (1 + 16 * (HORIZON - 1)) * FLAT * FLAT
    assert costs["predictor"] == FLAT * FLAT + 16 * HORIZON * ACTIONS * FLAT + steps


def test_bundle_cost_is_that_of_the_preferred_variant(pose_bundle: Path) -> None:
    bundle = Bundle.open(pose_bundle)
    steps = (1 + NUM_SAMPLES * (HORIZON - 1)) * FLAT * FLAT
    assert bundle_multiply_adds(bundle) == {
        "encoder": SIZE * SIZE * 3 * FLAT,
        "predictor": FLAT * FLAT + NUM_SAMPLES * HORIZON * ACTIONS * FLAT + steps,
        "energy": 0,
        "relative_pose": FLAT * 5,
    }


def test_shipped_bundle_cost_equals_its_evaluation(two_rooms_bundle: Path) -> None:
    cost = bundle_multiply_adds(Bundle.open(two_rooms_bundle))
    assert format_multiply_adds(cost["encoder"]) == "11.55 M" and cost["energy"] > 1e6


def test_network_cost_is_that_of_its_matrix_products() -> None:
    torch = pytest.importorskip("torch")
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.GELU(), torch.nn.Linear(5, 7))
            assert network_multiply_adds(network, torch.zeros(2, 3)) == 2 * (3 * 5 + 5 * 7)


def test_counts_are_formatted_for_people() -> None:
    assert (format_multiply_adds(1234567), format_multiply_adds(4_649_000_000)) == ("1.235 M", "4.649 G")


def test_quantization_does_not_change_the_cost(two_rooms_bundle: Path) -> None:
    bundle, backend = Bundle.open(two_rooms_bundle), create_backend("openvino:CPU")
    costs = [graphs(bundle, backend, precision, 64) for precision in ("int8", "fp32")]
    backend.close()
    for role in ("encoder", "predictor"):
        int8, fp32 = (multiply_adds(*each[role]) for each in costs)
        assert int8 == fp32 > 1e6


def test_matrix_products_are_counted() -> None:
    x = parameter(-1, 5, 3)
    assert counted(ops.matmul(x, weights(3, 7), False, False), x, (2, 5, 3)) == 2 * 5 * 3 * 7
    turned = parameter(-1, 3, 5)
    assert counted(ops.matmul(turned, weights(3, 7), True, False), turned, (2, 3, 5)) == 2 * 5 * 3 * 7


def test_convolutions_are_counted() -> None:
    plain, grouped, back = (parameter(1, 4, 9, 9) for _ in range(3))
    stride, pads, dilation = [2, 2], [1, 1], [1, 1]
    node = ops.convolution(plain, weights(6, 4, 3, 3), stride, pads, pads, dilation)
    assert counted(node, plain, (1, 4, 9, 9)) == 6 * 5 * 5 * 4 * 9
    node = ops.group_convolution(grouped, weights(2, 3, 2, 3, 3), stride, pads, pads, dilation)
    assert counted(node, grouped, (1, 4, 9, 9)) == 6 * 5 * 5 * 2 * 9
    node = ops.convolution_backprop_data(back, weights(4, 6, 2, 2), stride)
    assert counted(node, back, (1, 4, 9, 9)) == 4 * 9 * 9 * 6 * 4


def test_attention_is_counted() -> None:
    x = parameter(2, 3, 5, 8)
    node = ops.scaled_dot_product_attention(x, weights(2, 3, 7, 8), weights(2, 3, 7, 4))
    assert counted(node, x, (2, 3, 5, 8)) == 2 * 3 * 5 * 7 * (8 + 4)


def test_loop_is_counted_with_all_its_iterations() -> None:
    x, state = parameter(4, 3), ops.parameter([4, 3], np.float32)
    following = ops.result(ops.matmul(state, weights(3, 3), False, False))
    iterator, count = ov.op.tensor_iterator(), ops.constant(np.zeros((1, 6), np.float32))
    turn = ops.parameter([1, 1], np.float32)
    output = ops.result(turn)
    iterator.set_body(ov.Model([following, output], [state, turn], "body"))
    iterator.set_merged_input(state, x.output(0), following.output(0))
    iterator.set_sliced_input(turn, count.output(0), 0, 1, 1, -1, 1)
    last = iterator.get_iter_value(following.output(0), -1)
    model = ov.Model([ops.result(last)], [x], "drawn")
    assert multiply_adds(saved(model), {"x": (4, 3)}) == 6 * 4 * 3 * 3


def test_onnx_gemm_is_counted() -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    constants = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("w", (7, 3)), ("b", (7,)))
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 3), ("y", 7))
    ]
    graph = helper.make_graph([node], "gemm", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    assert multiply_adds(Graph("gemm", model.SerializeToString()), {"x": (5, 3)}) == 5 * 3 * 7


def test_unknown_operation_is_rejected() -> None:
    x = parameter(2, 3)
    node = ops.einsum([x, weights(3, 4)], "ab,bc->ac")
    with pytest.raises(JepaExportError, check=code("evaluation.uncounted")):
        counted(node, x, (2, 3))


def test_damaged_graph_is_named() -> None:
    with pytest.raises(JepaExportError, check=code("evaluation.uncounted")):
        multiply_adds(Graph("broken", b"<net", b""), {})
