"""INT8 results are equal on every processor, also with saturating 16-bit sums (x86 without VNNI)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino.opset15 as ops
import pytest

from jepa_runtime.backends import Graph, cpu_int8, create_backend

WIDTH = 64
SHAPE = {"values": (1, WIDTH)}
WITH, WITHOUT = "flags\t\t: fpu sse2 avx2 avx_vnni\n", "flags\t\t: fpu sse2 avx2 avx512_bitalg\n"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Products of bytes and the largest weights: the sum of any two exceeds 16 bits."""
    values = ops.parameter([1, WIDTH], np.float32, name="values")
    bounds = (np.float32(each) for each in (0, 255, 0, 255))
    quantized = ops.fake_quantize(values, *bounds, 256)
    whole = ops.constant(np.full((WIDTH, WIDTH), 127, np.int8))
    weights = ops.multiply(ops.convert(whole, np.float32), np.full((WIDTH, 1), 1 / 127, np.float32))
    model = openvino.Model([ops.matmul(quantized, weights, False, True)], [values])
    model.outputs[0].get_tensor().set_names({"sum"})
    openvino.save_model(model, tmp_path / "product.xml", compress_to_fp16=False)
    return tmp_path / "product.xml"


def test_large_int8_products_accumulate_without_saturation(product: Path) -> None:
    session = create_backend("openvino:CPU").load(product, SHAPE)
    session.inputs["values"][:] = 255
    assert session.run()["sum"] == pytest.approx(np.full((1, WIDTH), 255 * WIDTH), rel=1e-3)


@pytest.mark.parametrize(
    ("cpuinfo", "in_full"),
    [
        (WITH, True),
        (WITHOUT, False),
        ("flags\t\t: fpu avx512_vnni", True),
        ("Features\t: fp asimd asimddp", None),
        ("", None),
    ],
)
def test_processor_is_identified_by_its_flags(cpuinfo: str, in_full: bool | None) -> None:
    assert cpu_int8.has_exact_sums(cpuinfo) is in_full


@pytest.mark.parametrize("flags", [WITH, WITHOUT])
def test_products_stay_in_int8_on_processors_without_saturation(
    flags: str, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(cpu_int8, "CPUINFO", tmp_path / "cpuinfo")
    layers = create_backend("openvino:CPU").layer_times(Graph.read(product), SHAPE, 1)
    (implementation,) = [each.implementation for each in layers if "Connected" in each.kind]
    assert implementation.upper().endswith("_I8") is (flags == WITH)


EMULATOR = "qemu-x86_64"
ON_HASWELL = f"""
import sys
from pathlib import Path
from jepa_runtime.backends import create_backend, cpu_int8 as int8
# The emulator shows the file of the host processor.
int8.CPUINFO = Path("cpuinfo")
session = create_backend("onnxruntime:CPU").load(Path(sys.argv[1]), {SHAPE})
session.inputs["values"][:] = 255
print(session.run()["sum"].max())
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"there is no {EMULATOR}")
def test_onnxruntime_without_vnni_accumulates_without_saturation(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    constants = {
        "one": np.float32(1),
        "none": np.uint8(0),
        "unit": np.float32(1 / 127),
        "weights": np.full((WIDTH, WIDTH), 127, np.int8),
    }
    steps = [
        ("QuantizeLinear", ["values", "one", "none"], "bytes"),
        ("DequantizeLinear", ["bytes", "one", "none"], "held"),
        ("DequantizeLinear", ["weights", "unit"], "matrix"),
        ("MatMul", ["held", "matrix"], "sum"),
    ]
    values, total = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, WIDTH])
        for name in ("values", "sum")
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps],
        "product",
        [values],
        [total],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "product.onnx")
    (tmp_path / "cpuinfo").write_text(WITHOUT)
    emulated = subprocess.run(
        [EMULATOR, "-cpu", "Haswell", sys.executable, "-c", ON_HASWELL, "product.onnx"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert float(emulated.stdout) == pytest.approx(255 * WIDTH, rel=1e-3)
