"""Checks of a network of another project, before hours are spent on its export.

A bundle holds each graph as a function: the same inputs must always give the same outputs, and the result for
one frame or one candidate must not depend on which others are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.targets.onnx import OPSET
from jepa_runtime.errors import BackendError, CodedError

# Of the norm of the output; fp32 differs by about 1e-6 between batch sizes.
_SAME = 1e-4
_TINY = 1e-12


@torch.no_grad()
def check_encoder(encoder: nn.Module, frames: Tensor) -> Tensor:
    """Check an encoder on frames, and return their latents.

    Args:
        encoder: uint8 [N, height, width, 3] -> [N, tokens, dim].
        frames: At least two different frames.

    Raises:
        JepaExportError: The encoder cannot be part of a bundle.
    """
    latents = _compute("encoder", encoder, frames)
    if latents.ndim != 3 or len(latents) != len(frames):
        raise JepaExportError(
            f"encoder: must return latents [N, tokens, dim] for {len(frames)} images, returned "
            f"{list(latents.shape)}: reshape the output; one vector per image is one token "
            "(latents[:, None])",
            code="network.wrong_shape",
        )
    _check_function("encoder", encoder, (frames,), latents)
    return latents


@torch.no_grad()
def check_predictor(step: nn.Module, latents: Tensor, actions: Tensor | None) -> bool:
    """Check a predictor of one step, and return whether its output depends on the action.

    Args:
        step: latents [K, W, tokens, dim] and, unless ``actions`` is None, actions [K, W, A] -> [K, tokens,
            dim].
        latents: At least two different histories.
        actions: Actions in them; None for a predictor without actions.

    Raises:
        JepaExportError: The predictor cannot be part of a bundle.
    """
    inputs = (latents,) if actions is None else (latents, actions)
    predicted = _compute("predictor", step, *inputs)
    expected = [len(latents), *latents.shape[2:]]
    if list(predicted.shape) != expected:
        raise JepaExportError(
            f"predictor: must return the next latent {expected} for {_shapes(inputs)}, returned "
            f"{list(predicted.shape)}: return one step, without an axis for time",
            code="network.wrong_shape",
        )
    _check_function("predictor", step, inputs, predicted)
    if actions is None:
        return False
    return not torch.equal(_compute("predictor", step, latents, actions.flip(0)), predicted)


@torch.no_grad()
def check_prefix_predictor(
    predictor: nn.Module, latents: Tensor, actions: Tensor, history_actions: Tensor | None
) -> bool:
    """Check a predictor of all steps, and return whether its output depends on the actions.

    Args:
        predictor: latents [1, W, tokens, dim], actions [K, H, A] and, unless it is None, ``history_actions``
            -> [K, H, tokens, dim].
        latents: One history.
        actions: Two candidates that differ in every step.
        history_actions: Actions between the latents [1, W-1, A].

    Raises:
        JepaExportError: The predictor cannot be part of a bundle.
    """
    known = () if history_actions is None else (history_actions,)
    inputs = (latents, actions, *known)
    predicted = _compute("predictor", predictor, *inputs)
    expected = [*actions.shape[:2], *latents.shape[2:]]
    if list(predicted.shape) != expected:
        raise JepaExportError(
            f"predictor: must return the latents after every action {expected} for {_shapes(inputs)}, "
            f"returned {list(predicted.shape)}: return one latent for each candidate and step",
            code="network.wrong_shape",
        )

    def predict(candidates: Tensor) -> Tensor:
        return _compute("predictor", predictor, latents, candidates, *known)

    _check_function("predictor", predict, (actions,), predicted)
    for step in range(1, actions.shape[1]):
        changed = torch.cat([actions[:, :step], actions[:, step:].flip(0)], dim=1)
        if (difference := _difference(predict(changed)[:, :step], predicted[:, :step])) > _SAME:
            raise JepaExportError(
                f"predictor: the first {step} of {actions.shape[1]} predicted latents depend on later "
                f"actions (relative difference {difference:.2g}): use a causal mask, so that a latent "
                "depends only on the actions before it",
                code="network.not_causal",
            )
    return not torch.equal(predict(actions.flip(0)), predicted)


@torch.no_grad()
def check_energy(energy: nn.Module, latents: Tensor) -> None:
    """Check an energy on latents [N, tokens, dim].

    Raises:
        JepaExportError: The energy cannot be part of a bundle.
    """
    goal = latents[-1:]
    computed = _compute("energy", energy, latents, goal)
    if list(computed.shape) != [len(latents)]:
        raise JepaExportError(
            f"energy: must return one number per latent [{len(latents)}] for latents {list(latents.shape)} "
            f"and a goal {list(goal.shape)}, returned {list(computed.shape)}: average over tokens and "
            "dimensions",
            code="network.wrong_shape",
        )
    _check_function("energy", energy, (latents,), computed, shared=(goal,))


@contextmanager
def export_errors(role: str) -> Iterator[None]:
    """Convert an error of the exporter or a converter in the block to one that names the graph.

    Raises:
        JepaExportError: The block raised an error without a code, except for those of the file system.
    """
    try:
        yield
    except (CodedError, OSError, MemoryError):
        raise
    # Exporters and converters raise errors of many classes.
    except Exception as error:
        raise JepaExportError(
            f"{role}: cannot be exported: {type(error).__name__}: {first_line(error)}: use operations that "
            f"torch.onnx.export (opset {OPSET}) and OpenVINO support, and no control flow that depends "
            "on values",
            code="network.not_exportable",
        ) from error


@contextmanager
def run_errors() -> Iterator[None]:
    """Convert the error of an engine that cannot run a graph in the block.

    Raises:
        JepaExportError: The block raised a BackendError.
    """
    try:
        yield
    except BackendError as error:
        raise JepaExportError(
            f"an exported graph cannot be run: {error}: the network may not turn the size of the batch into "
            "a constant, as int(x.shape[0]) does",
            code="network.not_runnable",
        ) from error


def _compute(name: str, module: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    shapes = _shapes(inputs)
    try:
        output = module(*inputs)
    except CodedError:
        raise
    # The network is code of another project.
    except Exception as error:
        raise JepaExportError(
            f"{name}: fails on {shapes}: {type(error).__name__}: {first_line(error)}: its inputs are "
            "documented at export_bundle",
            code="network.forward_failed",
        ) from error
    if not isinstance(output, Tensor) or output.dtype != torch.float32:
        found = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise JepaExportError(
            f"{name}: must return one float32 tensor for {shapes}, returned {found}: wrap it in a module "
            "that does",
            code="network.wrong_output",
        )
    if not torch.isfinite(output).all():
        raise JepaExportError(
            f"{name}: returns NaN or infinity for {shapes}: check the weights and the normalization",
            code="network.not_finite",
        )
    return output


def _shapes(inputs: Sequence[Tensor]) -> str:
    """Return the types and shapes of inputs for messages."""
    return " and ".join(
        f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in inputs
    )


def _check_function(
    name: str,
    module: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    output: Tensor,
    *,
    shared: Sequence[Tensor] = (),
) -> None:
    """Check that ``module`` computes ``output`` again, and each row of it from that row of ``inputs``."""
    if (difference := _difference(_compute(name, module, *inputs, *shared), output)) > _SAME:
        raise JepaExportError(
            f"{name}: computes another output for the same input (relative difference {difference:.2g}): "
            "remove random operations, and dropout that stays active in evaluation mode",
            code="network.not_deterministic",
        )
    rows = [
        _compute(name, module, *(tensor[row : row + 1] for tensor in inputs), *shared)
        for row in range(len(output))
    ]
    if (difference := _difference(torch.cat(rows), output)) > _SAME:
        raise JepaExportError(
            f"{name}: its output for one input depends on the others in the batch (relative difference "
            f"{difference:.2g}): remove statistics over the batch, such as batch normalization in training "
            "mode",
            code="network.depends_on_batch",
        )


def _difference(computed: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of ``expected``; infinity for other shapes."""
    if computed.shape != expected.shape:
        return float("inf")
    return float((computed - expected).norm() / expected.norm().clamp_min(_TINY))


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error."""
    return (str(error).strip().splitlines() or ["no message"])[0]
