"""OpenVINO's graphs: input names, and INT8 that stays close to fp32 or names the layers that must not be
INT8."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pytest
import torch
from torch import nn

from jepa_export.quantization.accuracy_control import AccuracyController, CosineAgreement, QuantizationResult
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.layers import Block
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import (
    Sample,
    convert,
    quantize_int8,
    quantize_transformer_int8,
    save,
)
from jepa_runtime.backends import cpu_int8
from jepa_runtime.model.parity import cosines

SIZES = EncoderConfig(px=32, patch=16, width=32, depth=2, heads=2, tokens=3, dim=16)
RUINED = "/blocks/blocks.0/mlp/mlp.2/MatMul"
LIMITS = CosineAgreement(worst=0.98, mean=0.995)


class Scaled(nn.Module):
    """Divide by 1 first, like a predictor whose action is one number in -1 … 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.out = nn.Linear(1, 8)

    def forward(self, action: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(action / self.scale)
        return out


def test_inputs_keep_their_names_in_fp32_and_int8(tmp_path: Path) -> None:
    action = torch.rand(4, 1)
    export_onnx(Scaled(), {"action": action}, ["out"], tmp_path / "model.onnx")
    model = convert(tmp_path / "model.onnx")
    for each in (model, quantize_transformer_int8(model, [{"action": action.numpy()}])):
        assert [port.get_names() for port in each.inputs] == [{"action"}]


@pytest.mark.parametrize("halve", [False, True])
def test_file_does_not_depend_on_what_was_converted_before(halve: bool, tmp_path: Path) -> None:
    frame = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    export_onnx(Convolutions(), {"frame": frame}, ["out"], tmp_path / "model.onnx")
    written = []
    for name in ("one", "two"):
        model = quantize_transformer_int8(convert(tmp_path / "model.onnx"), [{"frame": frame.numpy()}])
        save(model, tmp_path / f"{name}.xml", halve=halve)
        written.append([(tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".xml", ".bin")])
        outputs = ov.compile_model(tmp_path / f"{name}.xml", "CPU")(frame.numpy())
        assert np.isfinite(outputs[0]).all()
    assert written[0] == written[1]


def test_file_in_fp16_does_not_depend_on_what_was_created_before(tmp_path: Path) -> None:
    """OpenVINO appends to the generated name of a constant whose values it halves."""
    for name in ("one", "two"):
        frame = ops.parameter([1, 64], np.float32, name="frame")
        weights = np.random.default_rng(0).random((64, 64), np.float32)
        product = ops.matmul(frame, ops.constant(weights), False, False)
        product.output(0).get_tensor().set_names({"out"})
        save(ov.Model([ops.result(product)], [frame], "model"), tmp_path / f"{name}.xml", halve=True)
    assert (tmp_path / "one.xml").read_bytes() == (tmp_path / "two.xml").read_bytes()


class Convolutions(nn.Module):
    """Contain two convolutions with enough weights to be quantized."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(frame.permute(0, 3, 1, 2).float())
        return out


@pytest.fixture(scope="module")
def frames() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [{"frame": rng.integers(0, 256, (1, 32, 32, 3), np.uint8)} for _ in range(24)]


def converted(encoder: nn.Module, folder: Path) -> ov.Model:
    example = {"frame": torch.zeros(1, 32, 32, 3, dtype=torch.uint8)}
    export_onnx(encoder, example, ["latent"], folder / "model.onnx")
    return convert(folder / "model.onnx")


def compiled(model: ov.Model) -> ov.CompiledModel:
    """Compile as the runtime does: by default OpenVINO computes fp32 in bf16 where the processor has it."""
    hints = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return ov.compile_model(model, "CPU", hints)


def make_encoder() -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(SIZES).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> ov.Model:
    return converted(make_encoder(), tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> ov.Model:
    """Return the same network with huge weights for a channel that is always zero: fp32 is unaffected, but
    INT8 rounds the layer's other weights to zero."""
    encoder = make_encoder()
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    hidden, _, out = block.mlp
    hidden.weight[5], hidden.bias[5] = 0, -20
    out.weight *= 4
    out.weight[:, 5] = 1000
    return converted(encoder, tmp_path_factory.mktemp("hurt"))


@pytest.mark.parametrize(("flags", "half"), [("avx2", True), ("avx2 avx_vnni", False)])
@pytest.mark.parametrize(
    ("network", "quantize"),
    [(make_encoder, quantize_transformer_int8), (Convolutions, quantize_int8)],
    ids=["transformer", "convolutions"],
)
def test_weights_use_half_of_their_range_where_two_products_must_fit_16_bits(
    network: Callable[[], nn.Module],
    quantize: Callable[[ov.Model, Sequence[Sample]], ov.Model],
    flags: str,
    half: bool,
    frames: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(cpu_int8, "CPUINFO", tmp_path / "cpuinfo")
    quantized = quantize(converted(network(), tmp_path), frames[:16])
    largest = [
        int(np.abs(operation.get_data().astype(int)).max())
        for operation in quantized.get_ops()
        if operation.get_type_name() == "Constant" and operation.get_element_type() == ov.Type.i8
    ]
    assert min(largest) > 60 and (2 * 255 * max(largest) < 2**15) is half


@pytest.mark.parametrize("controlled", [False, True])
def test_bright_frames_are_encoded_as_in_fp32(healthy: ov.Model, controlled: bool) -> None:
    rng = np.random.default_rng(0)
    dim: list[Sample] = [{"frame": rng.integers(0, 100, (1, 32, 32, 3), np.uint8)} for _ in range(16)]
    if controlled:
        limits = CosineAgreement(worst=0.9999, mean=0.99999)
        quantized = AccuracyController(limits, lambda _: None).quantize("encoder", healthy, dim, dim[:2])
    else:
        quantized = quantize_transformer_int8(healthy, dim)
    bright = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected, actual = (compiled(each)({"frame": bright})[0] for each in (healthy, quantized))
    # A range of 0 to 100 gives 0.8.
    assert cosines(actual, expected).min() > 0.98


def test_int8_within_the_limits_is_left_unchanged(healthy: ov.Model, frames: list[Sample]) -> None:
    messages: list[str] = []
    control = AccuracyController(LIMITS, messages.append)
    control.quantize("encoder", healthy, frames[:16], frames[16:])
    (outcome,) = control.outcomes
    assert outcome.holds and outcome.in_fp32 == () and outcome.found == outcome.plain
    assert LIMITS.worst < outcome.found.worst <= outcome.found.mean < 1
    assert (
        messages == [str(outcome)] and "encoder in INT8 on held-out samples: mean cosine 0.99" in messages[0]
    )


def test_missing_held_out_data_is_reported(healthy: ov.Model, frames: list[Sample]) -> None:
    messages: list[str] = []
    control = AccuracyController(LIMITS, messages.append, seen=True)
    control.quantize("encoder", healthy, frames[:16], frames[:16])
    assert "encoder in INT8 on calibration samples: mean cosine 0.99" in messages[0]
    assert control.report()["int8"][0]["held_out"] is False


def test_harmful_layer_stays_in_fp32_and_is_named(harmed: ov.Model, frames: list[Sample]) -> None:
    messages: list[str] = []
    control = AccuracyController(LIMITS, messages.append)
    quantized = control.quantize("encoder", harmed, frames[:16], frames[16:])
    (outcome,) = control.outcomes
    assert outcome.plain.used(LIMITS) > 1 >= outcome.found.used(LIMITS) and outcome.holds
    assert outcome.in_fp32 == (RUINED,)
    assert RUINED in messages[-1]
    products = {
        each.get_friendly_name(): each for each in quantized.get_ops() if each.get_type_name() == "MatMul"
    }
    in_fp32 = {
        name
        for name, each in products.items()
        if each.input_value(1).get_node().get_type_name() == "Constant"
    }
    assert in_fp32 == {RUINED}


def test_harmful_convolution_stays_in_fp32_and_is_named(frames: list[Sample], tmp_path: Path) -> None:
    network = Convolutions().requires_grad_(False)
    first, _, second = network.layers
    # The range of one channel, which is not used, leaves a few steps for all others.
    first.weight[5] *= 2000
    second.weight[:, 5] = 0
    control = AccuracyController(LIMITS, lambda _: None)
    control.quantize("encoder", converted(network, tmp_path), frames[:16], frames[16:])
    (outcome,) = control.outcomes
    assert outcome.plain.used(LIMITS) > 1 >= outcome.found.used(LIMITS)
    assert "/layers/layers.2/Conv/WithoutBiases" in outcome.in_fp32


def test_signal_handlers_work_after_the_search(harmed: ov.Model, frames: list[Sample]) -> None:
    AccuracyController(LIMITS, lambda _: None).quantize("encoder", harmed, frames[:16], frames[16:])
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == [signal.SIGUSR1]


def test_error_that_no_single_layer_fixes_is_reported(
    healthy: ov.Model, frames: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_export.quantization.accuracy_control.MAX_GROUPS", 1)
    messages: list[str] = []
    control = AccuracyController(CosineAgreement(worst=0.9999999, mean=0.9999999), messages.append)
    control.quantize("encoder", healthy, frames[:16], frames[16:])
    (outcome,) = control.outcomes
    assert not outcome.holds and not outcome.as_dict()["holds"]
    assert (
        "the limit is mean cosine 1.0000" in messages[-1]
        and "--quantization-aware, or serve fp32" in messages[-1]
    )


@pytest.mark.parametrize("graph", ["encoder", "step", "predictor (a step)"])
def test_graph_that_misses_the_limit_gets_advice(graph: str) -> None:
    """Only the encoder has quantization-aware training."""
    far = CosineAgreement(worst=0.5, mean=0.7)
    outcome = QuantizationResult(graph=graph, plain=far, found=far, limits=LIMITS, in_fp32=(), held_out=True)
    assert str(outcome).startswith(f"WARNING: {graph} in INT8") and str(outcome).endswith("serve fp32")
    assert ("--quantization-aware" in str(outcome)) == (graph == "encoder")


@pytest.mark.parametrize(
    ("worst", "mean", "used"), [(1, 1, 0), (0.95, 0.999, 0.5), (0.8, 0.999, 2), (0.95, 0.97, 3)]
)
def test_used_limit_is_the_larger_of_worst_and_mean(worst: float, mean: float, used: float) -> None:
    limits = CosineAgreement(worst=0.9, mean=0.99)
    assert CosineAgreement(worst=worst, mean=mean).used(limits) == pytest.approx(used)
