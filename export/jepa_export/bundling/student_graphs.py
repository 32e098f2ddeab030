"""The graphs of a student's bundle in every requested variant."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn

from jepa_export.bundling.variants import VariantKey, write_variants
from jepa_export.evaluation.compute_cost import parameters
from jepa_export.quantization.accuracy_control import HeldOutSamples
from jepa_export.students.predictor import WINDOW, Past, Predictor, Step
from jepa_export.targets.onnx import check_size, export_onnx, fits
from jepa_export.targets.openvino import Sample, convert, convert_module, quantize_transformer_int8
from jepa_export.targets.openvino_rollout import absent_table, loop
from jepa_runtime.bundle import compiled_candidates


def write_graph(
    module: nn.Module,
    samples: Sequence[Sample],
    output: str,
    folder: Path,
    variants: Sequence[VariantKey],
    *,
    free_axis: tuple[str, ...] = (),
    held_out: HeldOutSamples | None = None,
    extremes: bool = False,
    quantize: Callable[[ov.Model], ov.Model] | None = None,
) -> None:
    """Write ``module`` in every variant.

    A module too large for an ONNX file is converted directly, for OpenVINO alone.

    Args:
        module: Module in evaluation mode.
        samples: Inputs by name, on which quantization is calibrated.
        output: Name of the output.
        folder: Folder of the graph in the bundle.
        variants: Variants to write.
        free_axis: Inputs whose first axis may have any length (for NPUs: that of ``samples``).
        held_out: Samples on which the accuracy of INT8 is controlled.
        extremes: See :func:`~jepa_export.targets.openvino.transformer_options`.
        quantize: Quantizes the graph to INT8; None: as a transformer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Next to the bundle's own files, because other file systems may have less space.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        example = _tensors(samples[0])
        if fits(parameters(module)):
            export_onnx(module, example, [output], path, free_axis=free_axis)
            create_ir: Callable[[], ov.Model] = partial(convert, path)
        else:
            check_size(folder.name, parameters(module), {target for target, _ in variants})
            create_ir = partial(convert_module, module, example, output, free_axis=free_axis)
        shapes = {name: samples[0][name].shape for name in free_axis}
        irs = {
            "fp32": create_ir,
            "int8": lambda: (
                quantize(create_ir())
                if quantize is not None
                else _int8(folder.name, create_ir(), samples, held_out, extremes=extremes)
            ),
        }
        write_variants(path, irs, samples, folder, variants, shapes=shapes)


def write_step(
    predictor: Predictor,
    samples: Sequence[Sample],
    folder: Path,
    variants: Sequence[VariantKey],
    *,
    held_out: HeldOutSamples | None,
) -> None:
    """Write the predictor for the next frame alone; see :func:`write_graph`. Each sample has one action."""
    write_graph(predictor, samples, "futures", folder, variants, held_out=held_out, extremes=True)


def write_predictor(
    predictor: Predictor,
    rollouts: Sequence[Sample],
    folder: Path,
    variants: Sequence[VariantKey],
    *,
    held_out: HeldOutSamples | None = None,
) -> None:
    """Write the predictor for any number of candidates.

    The ONNX graph is unrolled; OpenVINO's has a loop; NPUs get the loop with the number of candidates of
    ``rollouts``.

    Args:
        predictor: Predictor in evaluation mode.
        rollouts: Inputs by name (history_latents, actions, and history_actions where the history has several
            frames). INT8 is calibrated on all their steps.
        folder: Folder of the graph in the bundle.
        variants: Variants to write.
        held_out: Rollouts on whose steps the accuracy of INT8 is controlled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    example = _tensors(rollouts[0])
    count, *rest = example["actions"].shape
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(predictor, example, ["futures"], path, free_axis=("actions",))
        irs = {
            "fp32": partial(_loop, predictor, rollouts, held_out, Path(scratch), quantize=False),
            "int8": partial(_loop, predictor, rollouts, held_out, Path(scratch), quantize=True),
        }
        shapes = {"actions": (compiled_candidates(count), *rest)}
        write_variants(path, irs, rollouts, folder, variants, shapes=shapes)


def _loop(
    predictor: Predictor,
    rollouts: Sequence[Sample],
    held_out: HeldOutSamples | None,
    scratch: Path,
    *,
    quantize: bool,
) -> ov.Model:
    frames = [f"frame_{index}" for index in range(WINDOW - 1)]
    steps_of = partial(_steps, predictor, frames)
    pasts = [past for rollout in rollouts for past in _past(rollout)]
    steps = [step for rollout in rollouts for step in steps_of(rollout)]
    past_path, step_path = scratch / "past.onnx", scratch / "step.onnx"
    export_onnx(Past(predictor), _tensors(pasts[0]), ["newest", *frames], past_path)
    free_axis = ("latent", "action", *frames)
    export_onnx(Step(predictor), _tensors(steps[0]), ["next", "made"], step_path, free_axis=free_axis)
    past, step = convert(past_path), convert(step_path)
    known = min(rollouts[0]["history_latents"].shape[1], WINDOW) - 1
    if quantize:
        # Without frames before the newest one, the graph of the history has nothing to quantize.
        if known:
            past = _int8("predictor (history)", past, pasts, held_out and held_out.map(_past), extremes=True)
        step = _int8("predictor (a step)", step, steps, held_out and held_out.map(steps_of))
    return loop(past, step, known=known, horizon=rollouts[0]["actions"].shape[1])


def _int8(
    graph: str,
    model: ov.Model,
    samples: Sequence[Sample],
    held_out: HeldOutSamples | None,
    *,
    extremes: bool = False,
) -> ov.Model:
    if held_out is None:
        return quantize_transformer_int8(model, samples, extremes=extremes)
    return held_out.controller.quantize(graph, model, samples, held_out.samples, extremes=extremes)


def _past(rollout: Sample) -> Iterator[Sample]:
    yield {name: array for name, array in rollout.items() if name != "actions"}


@torch.no_grad()
def _steps(predictor: Predictor, names: Sequence[str], rollout: Sample) -> Iterator[Sample]:
    """Yield the inputs of every step of a rollout."""
    inputs = _tensors(rollout)
    actions = inputs.pop("actions")
    count, horizon = actions.shape[:2]
    latent, *frames = (part.expand(count, -1, *part.shape[2:]) for part in Past(predictor)(**inputs))
    known = inputs["history_latents"].shape[1] - 1
    for index, absent in enumerate(
        torch.from_numpy(absent_table(WINDOW, known, horizon)).split(WINDOW, dim=1)
    ):
        action = actions[:, index : index + 1]
        step = {
            "latent": latent,
            "action": action,
            "absent": absent,
            **dict(zip(names, frames, strict=True)),
        }
        yield {name: tensor.contiguous().numpy() for name, tensor in step.items()}
        latent, made = Step(predictor)(latent, action, absent, *frames)
        frames = [*frames[1:], made]


def _tensors(sample: Sample) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in sample.items()}
