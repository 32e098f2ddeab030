"""The graphs of a student's bundle: ONNX in fp32, OpenVINO in fp32 and INT8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn

from jepa_export.students.predictor import WINDOW, Past, Predictor, Step
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import Sample, convert, quantize_transformer_int8, save
from jepa_export.targets.rollout import absent_table, loop


def write_graph(module: nn.Module, samples: Sequence[Sample], output: str, folder: Path) -> None:
    """Write ``module`` as it is: all variants, INT8 calibrated on ``samples`` (its inputs by name)."""
    onnx_path = folder / "onnx" / "model_fp32.onnx"
    export_onnx(module, _tensors(samples[0]), [output], onnx_path)
    model = convert(onnx_path)
    save(model, folder / "openvino" / "model_fp32.xml")
    save(quantize_transformer_int8(model, samples), folder / "openvino" / "model_int8.xml")


def write_predictor(predictor: Predictor, rollouts: Sequence[Sample], folder: Path) -> None:
    """Write the predictor for any number of candidates: flat as ONNX, with a loop for OpenVINO.

    Args:
        rollouts: inputs by name (history_latents, actions, history_actions where there are any); INT8 is
            calibrated on all their steps.
    """
    example = _tensors(rollouts[0])
    export_onnx(predictor, example, ["futures"], folder / "onnx" / "model_fp32.onnx", free_axis=("actions",))
    frames = [f"frame_{index}" for index in range(WINDOW - 1)]
    pasts = [{name: array for name, array in rollout.items() if name != "actions"} for rollout in rollouts]
    steps = [step for rollout in rollouts for step in _steps(predictor, rollout, frames)]
    with tempfile.TemporaryDirectory() as scratch:
        past_path, step_path = Path(scratch) / "past.onnx", Path(scratch) / "step.onnx"
        export_onnx(Past(predictor), _tensors(pasts[0]), ["newest", *frames], past_path)
        moving = ("latent", "action", *frames)
        export_onnx(Step(predictor), _tensors(steps[0]), ["next", "made"], step_path, free_axis=moving)
        past, step = convert(past_path), convert(step_path)
    known = min(example["history_latents"].shape[1], WINDOW) - 1
    horizon = example["actions"].shape[1]

    def write(precision: str, past: ov.Model, step: ov.Model) -> None:
        save(loop(past, step, known=known, horizon=horizon), folder / "openvino" / f"model_{precision}.xml")

    write("fp32", past, step)
    # Without a history before the newest frame there is nothing in it to quantize.
    quantized = quantize_transformer_int8(past, pasts) if known else past
    write("int8", quantized, quantize_transformer_int8(step, steps))


@torch.no_grad()
def _steps(predictor: Predictor, rollout: Sample, names: Sequence[str]) -> Iterator[Sample]:
    """The inputs of every step of a rollout."""
    inputs = _tensors(rollout)
    actions = inputs.pop("actions")
    count, horizon = actions.shape[:2]
    latent, *frames = (part.expand(count, -1, *part.shape[2:]) for part in Past(predictor)(**inputs))
    known = inputs["history_latents"].shape[1] - 1
    for index, absent in enumerate(
        torch.from_numpy(absent_table(WINDOW, known, horizon)).split(WINDOW, dim=1)
    ):
        action = actions[:, index : index + 1]
        given = {
            "latent": latent,
            "action": action,
            "absent": absent,
            **dict(zip(names, frames, strict=True)),
        }
        yield {name: tensor.contiguous().numpy() for name, tensor in given.items()}
        latent, made = Step(predictor)(latent, action, absent, *frames)
        frames = [*frames[1:], made]


def _tensors(sample: Sample) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in sample.items()}
