"""Teachers as ONNX: plain operators, and the outputs of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from jepa_export.targets.onnx import export_onnx
from jepa_export.teachers.checkpoints import Teacher
from jepa_export.teachers.vjepa2 import FixedPredictor
from tests.export.teachers.tiny import ACTION_DIM, CONTEXT, FRAMES, PX, SIDE, TARGET, draw

onnxruntime = pytest.importorskip("onnxruntime")
Read = Callable[[str], Teacher]
# Operators of every target: no convolution, no sorting.
PLAIN = {
    *("Add", "Sub", "Mul", "Div", "Erf", "Sigmoid", "MatMul", "Gemm", "Softmax"),
    *("LayerNormalization", "BatchNormalization"),
    *("Reshape", "Flatten", "Transpose", "Concat", "Split", "Slice", "Unsqueeze", "Squeeze", "Gather"),
}


def check(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    export_onnx(module, inputs, ["out"], path)
    options = onnxruntime.SessionOptions()
    # Fold constants, as every target does, and list the remaining operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".folded"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    assert {node.op_type for node in graph.node} <= PLAIN
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[1] in constants for node in graph.node if node.op_type == "Gather")
    (out,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    np.testing.assert_allclose(out, module(*inputs.values()).numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["vjepa2", "vjepa2_1", "vjepa2_1_levels"])
@pytest.mark.parametrize("part", ["encoder", "image", "predictor"])
def test_video_teacher_is_exported(teacher: Read, tmp_path: Path, case: str, part: str) -> None:
    model = teacher(case).model
    if part == "predictor":
        fixed = FixedPredictor(model.predictor, torch.tensor(CONTEXT), torch.tensor(TARGET))
        check(fixed, {"context": draw(1, len(CONTEXT), model.config.encoder.output_dim)}, tmp_path / "a.onnx")
    elif part == "encoder" or model.config.encoder.images:
        clips = draw(1, 1 if part == "image" else FRAMES, 3, PX, PX)
        check(model.encoder, {"clips": clips}, tmp_path / "a.onnx")


def test_action_predictor_is_exported(teacher: Read, tmp_path: Path) -> None:
    inputs = {
        "latents": draw(1, 3, SIDE**2, 40),
        "actions": draw(1, 3, 7, seed=2),
        "states": draw(1, 3, 7, seed=3),
    }
    check(teacher("vjepa2_ac").model.predictor, inputs, tmp_path / "a.onnx")


class LeWMStep(nn.Module):
    """LeWM's predictor as a separate module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return self.model.predict(latents, actions)


def test_lewm_is_exported(teacher: Read, tmp_path: Path) -> None:
    model = teacher("lewm").model
    check(model, {"images": draw(1, 2, 3, 28, 28)}, tmp_path / "encoder.onnx")
    inputs = {"latents": draw(1, 3, 24), "actions": draw(1, 3, ACTION_DIM, seed=2)}
    check(LeWMStep(model), inputs, tmp_path / "predictor.onnx")


def test_i_jepa_is_exported(teacher: Read, tmp_path: Path) -> None:
    check(teacher("ijepa").model, {"images": draw(1, 3, 42, 42)}, tmp_path / "a.onnx")
