"""Fake quantization: values are rounded as in INT8, and an encoder trained with it loses less accuracy."""

from __future__ import annotations

import copy
from pathlib import Path

import openvino as ov
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.quantization import fake_quantization
from jepa_export.quantization.fake_quantization import FakeInt8, quantize_activations, quantize_weights
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.layers import Block
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import convert, quantize_transformer_int8

SIZES = EncoderConfig(px=32, patch=16, width=32, depth=2, heads=2, tokens=3, dim=16)
STEPS, LEARNING_RATE = 100, 3e-4


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_image_bytes_are_represented_exactly() -> None:
    pixels = torch.arange(256.0)
    assert torch.equal(quantize_activations(pixels), pixels)


def test_activations_have_256_values_between_minimum_and_maximum() -> None:
    values = noise(100, 100) + 2
    held = quantize_activations(values)
    assert len(held.unique()) <= 256
    step = (values.max() - values.min()) / 255
    assert (held - values).abs().max() < 1.01 * step


@pytest.mark.parametrize(("most", "distances"), [(127, 255), (63, 127)])
def test_each_output_has_its_own_weight_scale(
    most: int, distances: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fake_quantization.MAX_WEIGHT in (127, 63)
    monkeypatch.setattr(fake_quantization, "MAX_WEIGHT", most)
    values = noise(3, 1000) * torch.tensor([[1.0], [100.0], [0.0]])
    held = quantize_weights(values)
    for row, quantized in zip(values, held, strict=True):
        assert len(quantized.unique()) <= distances
        assert (quantized - row).abs().max() <= 0.501 * row.abs().max() / most


def test_gradients_pass_unchanged() -> None:
    for rounded in (quantize_weights, quantize_activations):
        values = noise(4, 8).requires_grad_()
        (rounded(values) * 3).sum().backward()
        assert torch.equal(values.grad, torch.full((4, 8), 3.0))


def test_fake_quantization_applies_to_weight_products_only_while_active() -> None:
    layer, values = nn.Linear(8, 8), noise(4, 8)
    plain = layer(values)
    with FakeInt8():
        assert not torch.equal(layer(values), plain)
        assert torch.equal(values @ values.T, torch.matmul(values, values.T))
    assert torch.equal(layer(values), plain)


def uneven() -> Encoder:
    """Return an encoder with one channel so large that INT8 has few steps left for the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(SIZES).eval()
    with torch.no_grad():
        for block in encoder.blocks:
            assert isinstance(block, Block)
            for norm, product in ((block.norm_attention, block.qkv), (block.norm_mlp, block.mlp[0])):
                norm.weight[5] *= 1000
                product.weight[:, 5] /= 1000
    return encoder


def int8_error(encoder: Encoder, expected: Tensor, frames: Tensor, folder: Path) -> float:
    """Return the error of the quantized encoder: 1 - cosine to ``expected`` on frames outside the
    calibration."""
    path, half = folder / "model.onnx", len(frames) // 2
    export_onnx(copy.deepcopy(encoder).requires_grad_(False), {"frame": frames[:1]}, ["latent"], path)
    samples = [{"frame": each.numpy()} for each in frames.split(1)]
    quantized = quantize_transformer_int8(convert(path), samples[:half])
    # By default OpenVINO computes what is not quantized in bf16 where the processor has it.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = ov.compile_model(quantized, "CPU", hints)
    actual = torch.cat([torch.from_numpy(compiled(sample)[0].copy()) for sample in samples[half:]])
    return float(1 - functional.cosine_similarity(actual, expected[half:], dim=-1).mean())


def test_encoder_trained_with_fake_quantization_loses_less_in_int8(tmp_path: Path) -> None:
    teacher, student = uneven().requires_grad_(False), uneven()
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Tensor:
        return torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)

    frames = draw(48)
    expected = teacher(frames)
    before = int8_error(student, expected, frames, tmp_path)
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        batch = draw(32)
        with FakeInt8():
            latents = student(batch)
        optimizer.zero_grad()
        functional.mse_loss(latents, teacher(batch)).backward()
        optimizer.step()
    after = int8_error(student, expected, frames, tmp_path)
    assert before > 0.03
    assert after < 0.6 * before
