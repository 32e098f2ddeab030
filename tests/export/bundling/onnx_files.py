"""ONNX files of the networks in own_networks, as another project exports them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tests.export.bundling import own_networks as own

IMAGES = torch.zeros(2, 3, own.PX, own.PX)
LATENTS, ACTIONS = torch.zeros(2, 2, own.TOKENS, own.DIM), torch.zeros(2, 2, 2)


def write(
    path: Path,
    network: nn.Module,
    *inputs: torch.Tensor,
    free: bool = True,
    free_inputs: Sequence[str] | None = None,
    opset: int = 17,
) -> Path:
    """Write the ONNX file of a network, with free first axes (of all inputs by default) or without."""
    names = [f"in_{index}" for index in range(len(inputs))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            inputs,
            str(path),
            input_names=names,
            dynamic_axes={name: {0: "rows"} for name in free_inputs or names} if free else None,
            opset_version=opset,
            dynamo=False,
        )
    return path


def write_pair(folder: Path, **changed: Any) -> dict[str, Path]:
    """Write the encoder and the predictor of :func:`own_networks.arguments`, and return their paths."""
    networks = own.arguments(**changed)
    return {
        "encoder": write(folder / "encoder.onnx", networks["encoder"], IMAGES),
        "predictor": write(folder / "predictor.onnx", networks["predictor"], LATENTS, ACTIONS),
    }


def graph(
    path: Path, inputs: Sequence[tuple[str, int, Sequence[Any]]], op: str = "Identity", **more: Any
) -> Path:
    """Write a graph of one operation on its first input."""
    values = [onnx.helper.make_tensor_value_info(*each) for each in inputs]
    outputs = [
        onnx.helper.make_tensor_value_info(name, inputs[0][1], inputs[0][2])
        for name in more.get("outputs", ["out"])
    ]
    domain = more.get("domain", "")
    nodes = [onnx.helper.make_node(op, [inputs[0][0]], [value.name], domain=domain) for value in outputs]
    opsets = [onnx.helper.make_opsetid("", more.get("opset", 18))]
    opsets += [onnx.helper.make_opsetid(domain, 1)] if domain else []
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "graph", values, outputs), opset_imports=opsets, ir_version=8
    )
    onnx.save(model, path)
    return path
