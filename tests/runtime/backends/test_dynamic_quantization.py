"""Graphs with INT8 weights only: the manifest determines the precision of their activations."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import openvino
import openvino.opset15 as ops
import pytest
from numpy.typing import NDArray

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions, Graph, cpu_int8, create_backend
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main

MODEL = Path(__file__).parents[3] / "models" / "two_rooms"
WIDTHS = (64, 256, 64)
Weights = list[tuple[NDArray[np.int8], NDArray[np.float32]]]


@pytest.fixture
def weights() -> Weights:
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(-127, 128, (after, before), np.int8),
            rng.uniform(0.5, 1.5, (after, 1)).astype(np.float32) / np.float32(73 * np.sqrt(before)),
        )
        for before, after in pairwise(WIDTHS)
    ]


@pytest.fixture
def graph(weights: Weights, tmp_path: Path) -> Path:
    """Return a graph with INT8 weights, as `nncf.compress_weights` creates it."""
    node = rows = ops.parameter([-1, WIDTHS[0]], np.float32, name="rows")
    rows.output(0).get_tensor().set_names({"rows"})
    for values, scales in weights:
        whole = ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scales))
        node = ops.relu(ops.matmul(node, whole, transpose_a=False, transpose_b=True))
    node.output(0).get_tensor().set_names({"out"})
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([ops.result(node)], [rows]), path, compress_to_fp16=False)
    return path


def computed(graph: Graph | Path, rows: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    backend = create_backend("openvino:CPU", BackendOptions(threads=threads))
    session = backend.load(graph, {"rows": rows.shape}, rows=("rows",))
    session.inputs["rows"][:] = rows
    result: NDArray[np.float32] = session.run()["out"].copy()
    session.close()
    backend.close()
    return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 16, 64])
def test_int8_weights_alone_leave_activations_in_fp32(
    graph: Path, weights: Weights, count: int, threads: int
) -> None:
    rows = np.random.default_rng(1).standard_normal((count, WIDTHS[0])).astype(np.float32)
    expected = rows.astype(np.float64)
    for values, scales in weights:
        expected = np.maximum(expected @ (values * scales.astype(np.float64)).T, 0)
    assert computed(graph, rows, threads) == pytest.approx(expected, abs=1e-5)


def test_single_candidate_and_batch_have_the_same_futures() -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (64, 8, 2)).astype(np.float32)
    latents = Bundle.open(MODEL).golden().latents[:1]
    with WorldModel.open(MODEL, precision="int8") as model:
        many = model.predict(actions, latents=latents).latents
        one = np.concatenate([model.predict(each[None], latents=latents).latents for each in actions])
    assert one == pytest.approx(many, abs=1e-5)


def in_groups(folder: Path, size: int) -> Bundle:
    """The demo's model, with activations of the predictor quantized at run time."""
    shutil.copytree(MODEL, folder)
    fields = json.loads((folder / "manifest.json").read_text())
    for variant in fields["graphs"]["predictor"]:
        if variant["target"] == "openvino":
            variant["dynamic_quantization_group_size"] = size
    return seal(folder, fields)


def test_activations_are_quantized_at_run_time_where_the_manifest_says_so(tmp_path: Path) -> None:
    if not cpu_int8.has_exact_sums(cpu_int8.CPUINFO.read_text()):
        pytest.skip("only where the processor has VNNI")
    actions = np.random.default_rng(0).uniform(-1, 1, (64, 8, 2)).astype(np.float32)
    latents = Bundle.open(MODEL).golden().latents[:1]
    result = []
    for bundle in (Bundle.open(MODEL), in_groups(tmp_path / "two_rooms", 32)):
        with WorldModel.open(bundle, precision="int8") as model:
            result.append(model.predict(actions, latents=latents).latents)
    assert 1e-3 < np.abs(result[0] - result[1]).max() < 0.3


def test_info_and_verify_show_dynamic_quantization(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_groups(tmp_path / "two_rooms", 32).path
    assert main(["info", str(folder)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "int8 for openvino (activations quantized at run time, groups of 32)" in output
    assert main(["verify", str(folder), "--json"]) == 0
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    groups = {
        (row["precision"], row["graph"]): row["dynamic_quantization_group_size"]
        for row in graphs
        if row["dynamic_quantization_group_size"]
    }
    assert groups == {("int8", "predictor"): 32}
    assert main(["verify", str(folder)]) == 0
    assert "int8, predictor activations in groups of 32" in " ".join(capsys.readouterr().out.split())
