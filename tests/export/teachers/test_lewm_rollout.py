"""LeWM's rollout as one graph equals its own loop for any history, with fewer computations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_export.evaluation.compute_cost import network_multiply_adds
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import convert, quantize_transformer_int8, save
from jepa_export.teachers.checkpoints import Teacher
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_runtime.backends.registry import create_backend
from jepa_runtime.model.parity import cosines
from tests.export.teachers.tiny import ACTION_DIM, HISTORY, draw

COUNT, DIM = 3, 24
Inputs = dict[str, Tensor]


@pytest.fixture
def model(teacher: Callable[[str], Teacher]) -> LeWM:
    lewm = teacher("lewm").model
    assert isinstance(lewm, LeWM)
    # Untrained positions are all equal.
    lewm.pos_embed.copy_(draw(*lewm.pos_embed.shape, seed=9))
    return lewm


def create_inputs(known: int, horizon: int, count: int = COUNT) -> Inputs:
    inputs = {"history_latents": draw(1, known, 1, DIM), "actions": draw(count, horizon, ACTION_DIM, seed=2)}
    if known > 1:
        inputs["history_actions"] = draw(1, known - 1, ACTION_DIM, seed=3)
    return inputs


def published_rollout(model: LeWM, inputs: Inputs) -> Tensor:
    actions = inputs["actions"]
    if "history_actions" in inputs:
        actions = torch.cat([inputs["history_actions"].expand(len(actions), -1, -1), actions], dim=1)
    latents = inputs["history_latents"][:, :, 0].expand(len(actions), -1, -1)
    return model.rollout(latents, actions)[:, :, None]


@pytest.mark.parametrize("known", [1, 2, HISTORY, HISTORY + 2])
@pytest.mark.parametrize("horizon", [1, 2, 3, 6])
def test_rollout_equals_the_published_loop(model: LeWM, known: int, horizon: int) -> None:
    inputs = create_inputs(known, horizon)
    actual = Rollout(model)(*inputs.values())
    assert actual.shape == (COUNT, horizon, 1, DIM)
    torch.testing.assert_close(actual, published_rollout(model, inputs), atol=2e-5, rtol=0)


def test_position_and_candidate_change_the_rollout(model: LeWM) -> None:
    inputs = create_inputs(1, 5)
    actual = Rollout(model)(*inputs.values())
    assert (actual[0] - actual[1]).abs().max() > 0.01
    model.pos_embed.copy_(model.pos_embed.flip(1))
    assert (Rollout(model)(*inputs.values()) - actual).abs().max() > 0.01


def test_frame_at_a_position_is_computed_once(model: LeWM) -> None:
    config = model.config
    width, inner = config.encoder.width, config.heads * config.head_dim
    product, mlp = width * inner, 2 * width * config.hidden
    # From one frame, five steps: nine pairs, six of which attend to earlier ones; in the last block five
    # predict, of which four attend to earlier ones. Attention itself computes no matrix products.
    first = 9 * (3 * product + mlp) + 6 * product
    last = 9 * 2 * product + 5 * (product + mlp) + 4 * product
    each_step = 6 * config.depth * width**2 + 2 * width * config.projector
    each_step += config.action_dim * config.mixed + 4 * config.mixed * width + 4 * width**2
    expected = (config.depth - 1) * first + last + 5 * each_step
    assert network_multiply_adds(Rollout(model), *create_inputs(1, 5, count=1).values()) == expected


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
@pytest.mark.parametrize("known", [1, HISTORY])
def test_exported_rollout_takes_any_number_of_candidates(
    model: LeWM, tmp_path: Path, engine: str, known: int
) -> None:
    export_onnx(
        Rollout(model), create_inputs(known, 4), ["futures"], tmp_path / "model.onnx", free_axis=("actions",)
    )
    inputs = create_inputs(known, 4, count=32)
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    with closing(create_backend(engine)) as backend:
        session = backend.load(tmp_path / "model.onnx", shapes, rows=("actions",))
        for name, tensor in inputs.items():
            session.inputs[name][:] = tensor.numpy()
        actual = session.run()["futures"].copy()
        session.close()
    np.testing.assert_allclose(actual, published_rollout(model, inputs).numpy(), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_int8_rollout_is_close_to_fp32(model: LeWM, tmp_path: Path) -> None:
    inputs = create_inputs(1, 5, count=32)
    export_onnx(Rollout(model), inputs, ["futures"], tmp_path / "model.onnx", free_axis=("actions",))
    samples = [{name: tensor.numpy() for name, tensor in inputs.items()}]
    save(quantize_transformer_int8(convert(tmp_path / "model.onnx"), samples), tmp_path / "model.xml")
    with closing(create_backend("openvino:CPU")) as backend:
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        session = backend.load(tmp_path / "model.xml", shapes, rows=("actions",))
        for name, tensor in inputs.items():
            session.inputs[name][:] = tensor.numpy()
        actual = session.run()["futures"].reshape(-1, DIM).astype(np.float64)
        session.close()
    likeness = cosines(actual, published_rollout(model, inputs).reshape(-1, DIM).double().numpy())
    assert 0.98 < likeness.mean() < 1 - 1e-6
