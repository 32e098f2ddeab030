"""The graphs of a student's bundle, in every form that is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn

from jepa_export.bundling.variants import Kind, fixed_count, write_kinds
from jepa_export.quantization.accuracy_control import Held
from jepa_export.students.predictor import WINDOW, Past, Predictor, Step
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import Sample, convert, quantize_transformer_int8
from jepa_export.targets.openvino_rollout import absent_table, loop


def write_graph(
    module: nn.Module,
    samples: Sequence[Sample],
    output: str,
    folder: Path,
    kinds: Sequence[Kind],
    *,
    free_axis: tuple[str, ...] = (),
    held: Held | None = None,
    extremes: bool = False,
) -> None:
    """Write ``module`` as it is, for any number of rows of what is named in ``free_axis`` (NPUs: that of
    ``samples``); what is quantized is calibrated on ``samples`` (its inputs by name), and
    held to fp32 on those of ``held`` (``extremes``: see
    :func:`~jepa_export.targets.openvino.transformer_options`)."""
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the bundle's own files: elsewhere may be less room.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(module, _tensors(samples[0]), [output], path, free_axis=free_axis)
        shapes = {name: samples[0][name].shape for name in free_axis}
        irs = {
            "fp32": lambda: convert(path),
            "int8": lambda: _int8(folder.name, convert(path), samples, held, extremes=extremes),
        }
        write_kinds(path, irs, samples, folder, kinds, shapes=shapes)


def write_step(
    predictor: Predictor,
    samples: Sequence[Sample],
    folder: Path,
    kinds: Sequence[Kind],
    *,
    held: Held | None,
) -> None:
    """Write the predictor for the next frame alone, as :func:`write_graph` does; each of ``samples`` has one
    action."""
    write_graph(predictor, samples, "futures", folder, kinds, held=held, extremes=True)


def write_predictor(
    predictor: Predictor,
    rollouts: Sequence[Sample],
    folder: Path,
    kinds: Sequence[Kind],
    *,
    held: Held | None = None,
) -> None:
    """Write the predictor for any number of candidates: flat as ONNX, with a loop for OpenVINO, and with the
    loop for the candidates of ``rollouts`` for NPUs.

    Args:
        rollouts: inputs by name (history_latents, actions, history_actions where there are any); INT8 is
            calibrated on all their steps, and held to fp32 on all steps of those of ``held``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    example = _tensors(rollouts[0])
    count, *rest = example["actions"].shape
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(predictor, example, ["futures"], path, free_axis=("actions",))
        irs = {
            "fp32": partial(_loop, predictor, rollouts, held, Path(scratch), quantize=False),
            "int8": partial(_loop, predictor, rollouts, held, Path(scratch), quantize=True),
        }
        shapes = {"actions": (fixed_count(count), *rest)}
        write_kinds(path, irs, rollouts, folder, kinds, shapes=shapes)


def _loop(
    predictor: Predictor, rollouts: Sequence[Sample], held: Held | None, scratch: Path, *, quantize: bool
) -> ov.Model:
    frames = [f"frame_{index}" for index in range(WINDOW - 1)]
    steps_of = partial(_steps, predictor, frames)
    pasts = [past for rollout in rollouts for past in _past(rollout)]
    steps = [step for rollout in rollouts for step in steps_of(rollout)]
    past_path, step_path = scratch / "past.onnx", scratch / "step.onnx"
    export_onnx(Past(predictor), _tensors(pasts[0]), ["newest", *frames], past_path)
    moving = ("latent", "action", *frames)
    export_onnx(Step(predictor), _tensors(steps[0]), ["next", "made"], step_path, free_axis=moving)
    past, step = convert(past_path), convert(step_path)
    known = min(rollouts[0]["history_latents"].shape[1], WINDOW) - 1
    if quantize:
        # Without a history before the newest frame there is nothing in it to quantize.
        if known:
            past = _int8("predictor (history)", past, pasts, held and held.of(_past), extremes=True)
        step = _int8("predictor (a step)", step, steps, held and held.of(steps_of))
    return loop(past, step, known=known, horizon=rollouts[0]["actions"].shape[1])


def _int8(
    graph: str, model: ov.Model, samples: Sequence[Sample], held: Held | None, *, extremes: bool = False
) -> ov.Model:
    if held is None:
        return quantize_transformer_int8(model, samples, extremes=extremes)
    return held.control.quantize(graph, model, samples, held.samples, extremes=extremes)


def _past(rollout: Sample) -> Iterator[Sample]:
    yield {name: array for name, array in rollout.items() if name != "actions"}


@torch.no_grad()
def _steps(predictor: Predictor, names: Sequence[str], rollout: Sample) -> Iterator[Sample]:
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
